"""Webhooks over HTTP: jobs tell of their end, to URLs and to registered endpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from typer.testing import CliRunner

from api.cli import app as command_line
from api.cli.fleet import free_port
from common.broker import route_to_lane
from common.errors import InvalidInput
from common.metrics.table import METRICS
from common.redis.embedded_server import RedisServer
from common.redis.keys import EVENTS
from tests.support.metrics import lint, scrape, undeclared, value
from tests.support.receiver import HOST, Received, Receiver, listening
from tests.support.stack import ROOT, ApiProcess, Process, Stack, wait_until

HEALTH_PORT = free_port()
RUN = "from api.cli import main; main()"
OPEN = {
    "LANEFLEET_WEBHOOK_ALLOW": HOST,
    "LANEFLEET_WEBHOOK_SCHEDULE_SECONDS": "0,0.1,0.1",
    "LANEFLEET_WEBHOOK_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening(Receiver()) as made:
        yield made


def courier(stack: Stack, **environment: str) -> Process:
    return stack._start("courier", ["-m", "worker", "--role", "courier"], "echo", environment)


@pytest.fixture(scope="module")
def api(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One fleet for all tests that only add to it."""
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("webhooks"), dict(OPEN))
    made.redis.flushall()
    made.worker("echo", LANEFLEET_MAX_ATTEMPTS="1")
    courier(made, LANEFLEET_WORKER_HEALTH_PORT=str(HEALTH_PORT))
    yield made.api()
    made.close()


def call(api: ApiProcess, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    answer = httpx.request(method, f"{api.url}{path}", json=body, timeout=30)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def submit(api: ApiProcess, value: Any = "x", **more: Any) -> str:
    job = {"model": "echo", "input": value, **more}
    answer = httpx.post(f"{api.url}/v1/jobs", json=job, timeout=30)
    assert answer.status_code in (200, 202), answer.text
    return str(answer.json()["id"])


def event(one: Received) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(one.body)
    return found


def test_a_jobs_own_url_is_told_of_its_end_signed_with_the_default_secret(
    api: ApiProcess, receiver: Receiver
) -> None:
    secret = call(api, "POST", "/v1/webhooks/secret", {})["secret"]
    job = submit(api, {"n": 1}, webhook=receiver.url)
    wait_until(lambda: receiver.received, 20, "a webhook")
    (one,) = receiver.received
    told = event(one)
    assert told["type"] == "job.succeeded"
    assert told["data"]["id"] == job
    assert told["data"]["result"]["length"] == len('{"n":1}')
    assert told["data"]["links"]["result"] == f"/v1/jobs/{job}/result"
    Webhook(secret).verify(one.body, one.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(one.body.replace(b"succeeded", b"succeedeD"), one.headers)


def test_an_endpoint_gets_the_events_that_it_asks_for_and_rotates_its_secret(
    api: ApiProcess, receiver: Receiver
) -> None:
    asked = {"url": receiver.url, "events": ["job.dead"]}
    made = call(api, "POST", "/v1/webhooks", asked, 201)
    endpoint, old = made["id"], made["secret"]
    assert "secret" not in call(api, "GET", f"/v1/webhooks/{endpoint}")
    wait_until(
        lambda: submit(api, "y") and submit(api, "x", params={"fail": "no"}) and receiver.received,
        20,
        "an event",
    )
    assert {event(one)["type"] for one in receiver.received} == {"job.dead"}
    new = call(api, "POST", f"/v1/webhooks/{endpoint}/rotate", {})["secret"]
    assert call(api, "GET", f"/v1/webhooks/{endpoint}")["secrets"] == 2

    def rotated() -> Received | None:
        call(api, "POST", f"/v1/webhooks/{endpoint}/ping", status=202)
        last = receiver.received[-1]
        return last if " " in last.headers["webhook-signature"] else None

    one = wait_until(rotated, 20, "a delivery with two signatures")
    assert one is not None
    for secret in (old, new):
        Webhook(secret).verify(one.body, one.headers)


def test_a_named_endpoint_is_told_by_ed25519_and_its_log_is_shown(
    api: ApiProcess, receiver: Receiver
) -> None:
    made = call(
        api, "POST", "/v1/webhooks", {"url": receiver.url, "events": [], "signature": "v1a"}, 201
    )
    job = submit(api, "x", webhook=made["id"])
    wait_until(lambda: receiver.received, 20, "a webhook")
    assert receiver.received[0].headers["webhook-signature"].startswith("v1a,")
    assert made["public_keys"][0].startswith("whpk_")

    def logged() -> Any:
        found = call(api, "GET", f"/v1/webhooks/deliveries?subject={job}")["deliveries"]
        return found[0] if found and found[0]["state"] == "delivered" else None

    one = wait_until(logged, 20, "the log")
    assert one["id"] == receiver.received[0].id
    assert [(each["status"], each["error"]) for each in one["attempts"]] == [(204, None)]
    assert one["attempts"][0]["answer"] == "", "not shown of a network that the operator opened"


def test_failures_are_tried_by_the_schedule_then_dead_and_replayed_under_the_same_id(
    api: ApiProcess, receiver: Receiver
) -> None:
    receiver.answer = lambda _one: (500, {})
    job = submit(api, "x", webhook=receiver.url)

    def dead() -> Any:
        found = call(api, "GET", f"/v1/webhooks/deliveries?state=dead&subject={job}")
        return found["deliveries"]

    (one,) = wait_until(dead, 20, "a dead delivery")
    assert [each["status"] for each in one["attempts"]] == [500, 500, 500]
    assert len(receiver.ids()) == 1
    receiver.answer = lambda _one: (200, {})
    count = call(api, "POST", "/v1/webhooks/deliveries/replay", {"state": "dead", "subject": job})
    assert count == {"deliveries": 1}
    path = f"/v1/webhooks/deliveries/{one['id']}"
    wait_until(lambda: call(api, "GET", path)["state"] == "delivered", 20, "its delivery")
    assert len(receiver.ids()) == 1
    assert len(receiver.received) == 4


def test_410_disables_the_endpoint_and_says_so(api: ApiProcess, receiver: Receiver) -> None:
    receiver.answer = lambda _one: (410, {})
    endpoint = call(api, "POST", "/v1/webhooks", {"url": receiver.url}, 201)["id"]
    submit(api, "x", webhook=endpoint)
    path = f"/v1/webhooks/{endpoint}"
    wait_until(lambda: not call(api, "GET", path)["enabled"], 20, "the end of the endpoint")
    assert "410" in call(api, "GET", path)["disabled_reason"]
    assert call(api, "PATCH", path, {"enabled": True})["enabled"]


def test_retry_after_is_honoured_and_a_redirect_is_a_failure(
    api: ApiProcess, receiver: Receiver
) -> None:
    answers = [(503, {"Retry-After": "1"}), (302, {"Location": receiver.url}), (200, {})]
    receiver.answer = lambda _one: answers[len(receiver.received) - 1]
    job = submit(api, "x", webhook=receiver.url)

    def delivered() -> Any:
        found = call(api, "GET", f"/v1/webhooks/deliveries?subject={job}&state=delivered")
        return found["deliveries"]

    (one,) = wait_until(delivered, 20, "its delivery")
    first, second, third = one["attempts"]
    assert [each["status"] for each in one["attempts"]] == [503, 302, 200]
    assert "redirects are not followed" in second["error"]
    assert second["at"] > first["at"]
    assert third["error"] is None


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ({"webhook": "ftp://example.com/"}, "http:// or https://"),
        ({"webhook": "http://10.0.0.1/"}, "no address on the public internet"),
        ({"webhook": "here"}, "an http(s) URL, or the id of an endpoint"),
        ({"webhook": "ep_" + "0" * 24}, "no such endpoint"),
    ],
)
def test_a_webhook_that_cannot_be_used_refuses_the_job(
    api: ApiProcess, job: dict[str, str], says: str
) -> None:
    body = {"model": "echo", "input": 1, **job}
    assert says in call(api, "POST", "/v1/jobs", body, 422)["detail"]


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ({"url": "http://127.0.0.1/"}, "no address on the public internet"),
        ({"url": "https://example.com/", "events": ["job.done"]}, "no event 'job.done'; there are"),
        ({"url": "https://example.com/", "secret": "hunter2"}, "send whsec_ and 24 to 64 bytes"),
        ({"url": "https://example.com/", "local": True}, "loopback"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused(
    api: ApiProcess, endpoint: dict[str, Any], says: str
) -> None:
    said = call(api, "POST", "/v1/webhooks", endpoint, 422)["detail"]
    assert says in said
    assert "hunter2" not in said


def test_the_listener_gets_what_is_sent_to_it_alone_on_loopback_and_verifies_it(
    api: ApiProcess,
) -> None:
    command = [sys.executable, "-c", RUN, "webhooks", "listen", "--count", "1", "--json"]
    command += ["--url", api.url]
    listener = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert listener.stderr is not None
    endpoint = listener.stderr.readline().split()[4].rstrip(";")
    job = submit(api, "x", webhook=endpoint)
    printed, _ = listener.communicate(timeout=30)
    said = json.loads(printed)
    assert said["verified"] is True
    assert said["event"]["data"]["id"] == job
    assert call(api, "GET", f"/v1/webhooks/{endpoint}", status=404)


def test_the_client_and_the_command_line_manage_endpoints(
    api: ApiProcess, receiver: Receiver
) -> None:
    def lanefleet(*words: str) -> Any:
        found = CliRunner().invoke(command_line, ["webhooks", *words, "--url", api.url, "--json"])
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    made = lanefleet("create", receiver.url, "--named-only")
    assert made["secret"].startswith("whsec_")
    endpoint = made["id"]
    assert endpoint in [one["id"] for one in lanefleet("list")]
    assert lanefleet("update", endpoint, "--disable")["disabled_reason"] == "by request"
    assert api.client.update_webhook(endpoint, enabled=True)["enabled"]
    lanefleet("ping", endpoint)
    wait_until(lambda: api.client.list_deliveries(endpoint=endpoint, state="delivered"), 20, "it")
    assert lanefleet("replay", "--endpoint", endpoint) == {"deliveries": 1}
    wait_until(lambda: len(receiver.received) == 2, 20, "the replay")
    assert len(receiver.ids()) == 1
    assert lanefleet("rotate", endpoint)["secret"].startswith("whsec_")
    assert lanefleet("delete", endpoint, "--yes") == {"deleted": endpoint}


def test_system_lanes_take_no_jobs_and_are_hidden_unless_asked_for(api: ApiProcess) -> None:
    body = {"model": "~webhook", "input": 1}
    assert call(api, "POST", "/v1/jobs", body, 404)["type"].endswith("unknown-model")
    line = httpx.post(f"{api.url}/v1/jobs/bulk", content=json.dumps(body) + "\n").text
    assert "unknown-model" in line
    with pytest.raises(InvalidInput, match="no model is called"):
        route_to_lane("infer", (), body)
    assert "~webhook" not in call(api, "GET", "/v1/lanes")["lanes"]
    assert "~webhook" in call(api, "GET", "/v1/lanes?system=true")["lanes"]
    call(api, "POST", "/v1/lanes/~webhook/drop", status=409)


def test_the_courier_says_how_it_is_and_what_it_has_delivered(
    api: ApiProcess, receiver: Receiver
) -> None:
    submit(api, "x", webhook=receiver.url)
    wait_until(lambda: receiver.received, 20, "a webhook")
    url = f"http://127.0.0.1:{HEALTH_PORT}"
    assert httpx.get(f"{url}/health").json()["status"] == "ok"
    assert httpx.get(f"{url}/ready").json() == {"status": "ready"}

    def counted() -> bool:
        text = httpx.get(f"{url}/metrics").text
        declared = {one.name for one in METRICS if one.served_by == ("courier",)}
        stems = ("lanefleet_courier_delivery_seconds_count", *declared)
        found = [name for name in stems if f"\n{name}" in text]
        return len(found) >= 4 and 'deliveries_total{outcome="delivered"} 0.0' not in text

    wait_until(counted, 20, "metrics")
    text = scrape(f"{url}/metrics")
    assert undeclared(text) == []
    assert lint(text) == ""
    assert value(text, "process_resident_memory_bytes") > 0


def test_a_full_outbox_refuses_jobs_with_a_webhook_and_no_others(
    own_stack: Stack, receiver: Receiver
) -> None:
    own_stack.environment.update(OPEN)
    own_stack.redis.xadd(EVENTS, {"id": "a"})
    api = own_stack.api(LANEFLEET_WEBHOOK_MAX_WAITING="1")
    body = {"model": "echo", "input": 1, "webhook": receiver.url}
    said = httpx.post(f"{api.url}/v1/jobs", json=body)
    assert said.status_code == 429, said.text
    assert said.json()["type"].endswith("webhooks-full")
    assert int(said.headers["Retry-After"]) > 0
    submit(api, 2)
    submit(api, 3, webhook=None)

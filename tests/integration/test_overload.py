"""What is refused, when and for how long: the front against real workers and a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.tenants.api_keys import Keyring
from common.jobs.job import Job
from common.redis.embedded_server import RedisServer
from tests.support.stack import ApiProcess, Stack, wait_until

BOUND = 60
OPEN_SECONDS = 2
CATALOG = """models:
  paced: {handler: "tests.support.handlers:Paced", max_batch: 4, options: {batch_ms: 200}}
  shaky:
    handler: "tests.support.handlers:Recorder"
    max_batch: 4
    run_identical_once: false
    options: {ledger: LEDGER}
  broken: {handler: "tests.support.handlers:Missing"}
  absent: {handler: echo}
"""
"""`paced` drains 20 jobs a second."""


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker for all but one model, and a breaker that is quick to open and to probe."""
    folder = tmp_path_factory.mktemp("overload")
    stack = Stack(embedded_redis.url, folder)
    stack.redis.flushall()
    catalog = folder / "models.yaml"
    catalog.write_text(CATALOG.replace("LEDGER", str(folder / "ledger")))
    stack.environment |= {
        "LANEFLEET_CATALOG": str(catalog),
        "LANEFLEET_MAX_BACKLOG": str(BOUND),
        "LANEFLEET_BREAKER_FAILURES": "5",
        "LANEFLEET_BREAKER_OPEN_SECONDS": str(OPEN_SECONDS),
    }
    stack.worker("paced,shaky,broken")
    yield stack
    stack.close()


@pytest.fixture(scope="module")
def api(fleet: Stack) -> ApiProcess:
    return fleet.api("paced,shaky,broken,absent", LANEFLEET_KEY_CACHE_SECONDS="0.2")


@pytest.fixture(scope="module")
def replica(fleet: Stack) -> ApiProcess:
    """A second process that takes nothing for models that nobody serves."""
    return fleet.api("paced,shaky,broken,absent", LANEFLEET_SCALE_FROM_ZERO="false")


def post(api: ApiProcess, model: str, value: Any = "x", **fields: Any) -> httpx.Response:
    body = {"model": model, "input": value, **fields}
    return httpx.post(f"{api.url}/v1/jobs", json=body, timeout=10)


def problem(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["type"]).rpartition("/")[2]


def fill(fleet: Stack) -> list[str]:
    return fleet.publish([Job("paced", number) for number in range(BOUND)])


@pytest.fixture(autouse=True)
def _idle_afterwards(fleet: Stack) -> Iterator[None]:
    """Forget what waits in the paced lane; what is running ends by itself."""
    yield
    fleet.redis.delete("paced")
    wait_until(lambda: not fleet.redis.hlen("lf:lane:paced:unacked"), 20, "an idle lane")


def test_a_full_lane_says_when_there_is_room_and_then_there_is(
    fleet: Stack, api: ApiProcess
) -> None:
    fill(fleet)
    wait_until(lambda: api.client.lanes()["paced"]["drain_jobs_per_second"], 20, "a measured rate")
    fleet.publish([Job("paced", number) for number in range(BOUND)])
    refused = wait_until(
        lambda: (r := post(api, "paced")).status_code == 429 and r, 20, "the lane to be full"
    )
    assert problem(refused) == "lane-full"
    seconds = refused.json()["retry_after"]
    assert int(refused.headers["retry-after"]) == pytest.approx(seconds, abs=1)
    # Twenty a second leave, on a busy machine fewer; a second is the least that is said.
    assert 1 <= seconds <= 5
    wait_until(lambda: post(api, "paced").status_code == 202, 20, "room")


def test_clients_that_are_refused_together_are_told_to_come_back_apart(
    fleet: Stack, api: ApiProcess
) -> None:
    fleet.publish([Job("paced", number) for number in range(3 * BOUND)])
    api.await_samples()  # until it was seen how long the lane is
    body = b"\n".join(
        json.dumps({"model": "paced", "input": number}).encode() for number in range(60)
    )
    answer = httpx.post(f"{api.url}/v1/jobs/bulk", content=body)
    errors = [json.loads(line)["error"] for line in answer.text.splitlines()]
    assert {error["status"] for error in errors} == {429}
    seconds = [error["retry_after"] for error in errors]
    # Sixty places become free in three seconds, on a busy machine in more.
    assert min(seconds) < 5
    assert min(seconds) + 1 < max(seconds) < 20
    assert len(set(seconds)) > 30


def test_a_job_that_would_start_too_late_is_refused_at_once(fleet: Stack, api: ApiProcess) -> None:
    def loaded() -> bool:
        fleet.publish([Job("paced", number) for number in range(BOUND)])
        return bool(fleet.redis.llen("paced") > 200)

    wait_until(loaded, 20, "ten seconds of work")
    api.await_samples()
    # The lane holds more than the API allows, so the bound is out of the way on a replica.
    late = post(api, "paced", start_within=1)
    assert (late.status_code, problem(late)) == (429, "deadline-unreachable")
    assert 1 <= late.json()["retry_after"] <= 60
    assert "would start in about" in late.json()["detail"]
    patient = post(api, "paced", start_within=3600)
    assert problem(patient) == "lane-full", "not because of its deadline"
    lines = httpx.post(
        f"{api.url}/v1/jobs/bulk",
        content=b'{"model":"paced","input":1,"deadline":1}\n{"model":"shaky","input":1}\n',
    ).text.splitlines()
    answers = {one["line"]: one for one in map(json.loads, lines)}
    assert answers[1]["error"]["type"].endswith("/deadline-unreachable")
    assert "id" in answers[2], "the other line's lane has nothing to do"


def test_without_a_worker_jobs_wait_and_the_answer_says_so(api: ApiProcess) -> None:
    taken = post(api, "absent")
    assert taken.status_code == 202
    assert "no live worker serves this model" in taken.json()["notice"]
    assert "notice" not in post(api, "shaky").json()
    ready = httpx.get(f"{api.url}/ready").json()
    assert ready["status"] == "ready"
    assert "absent" in ready["lanes_without_worker"]


def test_without_a_worker_and_a_scaler_jobs_are_refused(replica: ApiProcess) -> None:
    refused = post(replica, "absent")
    assert (refused.status_code, problem(refused)) == (503, "no-worker")
    assert int(refused.headers["retry-after"]) >= 1
    assert post(replica, "shaky").status_code == 202


def breaker(api: ApiProcess, lane: str = "shaky") -> str:
    return str(api.client.lanes()[lane]["breaker"]["state"])


def round_of(fleet: Stack) -> bytes:
    """The breaker's record, which each round of probes writes anew."""
    return fleet.redis.hget("lf:lane:shaky:breaker", "state") or b""  # type: ignore[return-value]


def fail(api: ApiProcess, count: int) -> list[str]:
    """Queue jobs that fail in the model, in one request; returns their ids."""
    job = {"model": "shaky", "params": {"fail": "as asked"}}
    body = "\n".join(json.dumps({**job, "input": number}) for number in range(count))
    answer = httpx.post(f"{api.url}/v1/jobs/bulk", content=body)
    return [json.loads(line)["id"] for line in answer.text.splitlines()]


def test_a_model_that_fails_is_left_alone_until_it_works_again(
    fleet: Stack, api: ApiProcess, replica: ApiProcess, tmp_path: Path
) -> None:
    bad_input = [Job("shaky", n, {"bad": True}) for n in range(20)]
    ids = fleet.publish(bad_input)
    wait_until(lambda: fleet.states(ids) == {"failed": 20}, 20, "all to fail")
    api.await_samples()
    assert breaker(api) == "closed", "it was the input's fault"

    queued = fail(api, 6)
    wait_until(lambda: breaker(api) == breaker(replica) == "open", 20, "both to open")
    for one in (api, replica):
        refused = post(one, "shaky")
        assert (refused.status_code, problem(refused)) == (503, "model-unavailable")
        assert 1 <= int(refused.headers["retry-after"]) <= 3
    assert "shaky" in httpx.get(f"{api.url}/ready").json()["models_unavailable"]
    assert post(api, "paced").status_code == 202, "other models have their own"
    states = fleet.states(queued)
    assert sum(states.values()) == 6
    assert "canceled" not in states, "what was queued is left alone"

    wait_until(lambda: breaker(api) == breaker(replica) == "half-open", 20, "both to probe")
    gate = tmp_path / "verdict"
    held = {"params": {"until": str(gate)}}  # no verdict while we ask
    rounds, taken = {round_of(fleet)}, []
    for one in (api, replica) * 4:
        taken.append(post(one, "shaky", **held).status_code)
        rounds.add(round_of(fleet))  # on a busy machine others may have begun
    gate.touch()
    assert 1 <= taken.count(202) <= 3 * len(rounds), "three probes a round, over both"
    wait_until(lambda: breaker(api) == breaker(replica) == "closed", 20, "both to close")
    assert post(replica, "shaky").status_code == 202


def test_an_operator_can_close_it(fleet: Stack, api: ApiProcess, replica: ApiProcess) -> None:
    wait_until(lambda: not fleet.redis.hlen("lf:lane:shaky:unacked"), 20, "the probes to be done")
    api.await_samples()  # what succeeded just now is not between the failures
    replica.await_samples()
    fail(api, 6)
    wait_until(lambda: breaker(api) == breaker(replica) == "open", 20, "both to open")
    assert api.client.reset_breaker("shaky")["state"] == "closed"
    assert post(api, "shaky").status_code == 202
    wait_until(lambda: post(replica, "shaky").status_code == 202, 20, "the other one to see it")


def test_a_model_that_nobody_can_load_is_unavailable(fleet: Stack, api: ApiProcess) -> None:
    wait_until(lambda: breaker(api, "broken") != "closed", 20, "it to be noticed")
    refused = wait_until(
        lambda: (r := post(api, "broken")).status_code == 503 and r, 20, "a refusal"
    )
    assert problem(refused) == "model-unavailable"
    assert "could load" in refused.json()["detail"]
    assert "Missing" not in refused.text, "no internals"


def test_a_tenant_whose_jobs_fail_is_refused_and_no_other(fleet: Stack, api: ApiProcess) -> None:
    """The last one here: keys exist from now on."""
    ring = Keyring(fleet.redis)
    keys = {
        name: {"X-API-Key": ring.create(name, name, frozenset(scopes))[1]}
        for name, scopes in {
            "acme": {"submit"},
            "beta": {"submit", "read"},
            "ops": {"admin"},
        }.items()
    }
    wait_until(lambda: httpx.get(f"{api.url}/v1/lanes").status_code == 401, 20, "keys to count")
    lane = f"{api.url}/v1/lanes/shaky"
    assert httpx.post(f"{lane}/breaker/reset", headers=keys["ops"]).status_code == 200

    def send(tenant: str, **params: Any) -> httpx.Response:
        body = {"model": "shaky", "input": 1, "params": params}
        headers = keys[tenant] | {"Prefer": "wait=10"} if tenant == "beta" else keys[tenant]
        return httpx.post(f"{api.url}/v1/jobs", json=body, headers=headers, timeout=20)

    def look() -> dict[str, Any]:
        lanes = httpx.get(f"{api.url}/v1/lanes", headers=keys["ops"]).json()
        found: dict[str, Any] = lanes["lanes"]["shaky"]
        return found

    def breakers() -> dict[str, Any]:
        found: dict[str, Any] = look()["breaker"]
        return found

    def is_empty() -> bool:
        lane = look()
        return not (lane["waiting"] or lane["leased"] or lane["delayed"])

    # A job of the tests before that succeeds between the failures would break their row.
    wait_until(is_empty, 30, "the lane to be empty")
    api.headers = keys["ops"]
    api.await_samples()
    for _ in range(14):  # 503 once it opened
        assert send("acme", fail="as asked").status_code in (202, 503)
    wait_until(lambda: breakers()["tenants"], 20, "acme to be refused")
    # Where it has been opened for so long that this one is a probe, it fails as the others did.
    refused = wait_until(
        lambda: (r := send("acme", fail="as asked")).status_code == 503 and r, 20, "a refusal"
    )
    assert problem(refused) == "model-unavailable"
    assert "with this tenant's jobs" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    for _ in range(3):
        assert send("beta").json()["state"] == "succeeded"
    found = breakers()
    assert found["state"] == "closed", "and of the lane's own, nothing is said"
    assert set(found["tenants"]) == {"acme"}
    ready = httpx.get(f"{api.url}/ready").json()
    assert "shaky" not in ready["models_unavailable"]

    wait_until(lambda: breakers()["tenants"]["acme"]["state"] == "half-open", 30, "a probe")
    assert send("beta").json()["state"] == "succeeded"
    api.await_samples()
    assert breakers()["tenants"], "the success of another proves nothing"
    wait_until(lambda: send("acme").status_code == 202, 20, "a probe to be taken")
    wait_until(lambda: not breakers()["tenants"], 20, "it to close again")
    assert send("acme").status_code == 202

"""The HTTP server: what every answer carries, what it logs, how it drains and is replaced."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client import Client
from common.redis.embedded_server import RedisServer
from tests.support.stack import ApiProcess, Process, Stack, wait_until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_NUMBERS = count()


def job() -> dict[str, Any]:
    """A job unlike any before, so that no cache answers it."""
    return {"model": "echo", "input": f"hello {next(_NUMBERS)}"}


@pytest.fixture(scope="module")
def fleet(
    embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ApiProcess, Process]]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("server"))
    stack.redis.flushall()
    stack.environment["LANEFLEET_LOG_FORMAT"] = "json"
    worker = stack.worker("echo")
    api = stack.api(
        "echo",
        LANEFLEET_SLOW_REQUEST_SECONDS="0.000001",
        LANEFLEET_CORS_ORIGINS="https://app.example",
        LANEFLEET_ALLOWED_HOSTS="127.0.0.1, *.example",
        LANEFLEET_MAX_CONCURRENT_REQUESTS="4",
        LANEFLEET_MAX_CONNECTIONS="40",
    )
    yield api, worker
    stack.close()


@pytest.fixture(scope="module")
def api(fleet: tuple[ApiProcess, Process]) -> ApiProcess:
    return fleet[0]


def events(process: Process, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in process.output().splitlines() if line.startswith("{")]
    return [event for event in found if event["event"] == name]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/docs", "/v1/jobs"])
def test_every_answer_says_what_it_took_and_is_not_sniffed(api: ApiProcess, path: str) -> None:
    answer = httpx.get(api.url + path, headers={"X-Request-ID": "mine-1"})
    assert float(answer.headers["x-process-time"]) < 5
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    for page_only in ("content-security-policy", "referrer-policy"):
        assert (page_only in answer.headers) == (path == "/docs")


def test_the_hot_route_answers_with_the_same(api: ApiProcess) -> None:
    answer = httpx.post(f"{api.url}/v1/jobs", json=job(), headers={"traceparent": TRACE})
    assert answer.status_code == 202
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["traceparent"] == TRACE
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert float(answer.headers["x-process-time"]) < 5
    assert "server" not in answer.headers
    looked = httpx.get(api.url + answer.headers["location"])
    assert looked.headers["cache-control"] == "no-store"
    assert "traceparent" not in looked.headers


def test_a_problem_names_the_request_and_so_does_the_log(api: ApiProcess) -> None:
    answer = httpx.post(f"{api.url}/v1/jobs", json={}, headers={"X-Request-ID": "bad request"})
    made = answer.json()["request_id"]
    assert made == answer.headers["x-request-id"] != "bad request"
    wait_until(
        lambda: made in [event["request_id"] for event in events(api.process, "slow_request")]
    )


def test_a_slow_request_is_logged_without_what_it_carried(api: ApiProcess) -> None:
    secret = {"model": "echo", "input": "do not tell"}
    httpx.post(f"{api.url}/v1/jobs", json=secret, headers={"X-Request-ID": "slow-1"})
    path = f"{api.url}/v1/jobs/none-such?wait=1"
    httpx.get(path, headers={"X-Request-ID": "slow-2", "traceparent": TRACE})

    def logged() -> dict[str, dict[str, Any]]:
        found = {one["request_id"]: one for one in events(api.process, "slow_request")}
        return found if {"slow-1", "slow-2"} <= found.keys() else {}

    found = wait_until(logged)
    assert (found["slow-1"]["route"], found["slow-1"]["status"]) == ("/v1/jobs", 202)
    assert (found["slow-2"]["route"], found["slow-2"]["status"]) == ("/v1/jobs/{job_id}", 404)
    assert found["slow-2"]["trace_id"] == TRACE[3:35]
    assert "do not tell" not in api.process.output()
    assert "none-such" not in api.process.output()


def test_the_time_that_a_client_chose_to_wait_is_not_held_against_it(api: ApiProcess) -> None:
    headers = {"Prefer": "wait=5", "X-Request-ID": "waited-1"}
    began = time.monotonic()
    httpx.post(f"{api.url}/v1/jobs", json=job() | {"start_within": 60}, headers=headers)
    took_ms = (time.monotonic() - began) * 1000

    def logged() -> dict[str, Any] | None:
        found = events(api.process, "slow_request")
        return next((one for one in found if one["request_id"] == "waited-1"), None)

    event = wait_until(logged)
    assert 0 < event["waited_ms"] < took_ms
    assert event["ms"] + event["waited_ms"] < took_ms + 1


def test_a_trace_reaches_the_workers_log(fleet: tuple[ApiProcess, Process]) -> None:
    api, worker = fleet
    headers = {"traceparent": TRACE, "Prefer": "wait=10"}
    sent = httpx.post(f"{api.url}/v1/jobs", json=job(), headers=headers).json()

    def logged() -> dict[str, Any] | None:
        found = events(worker, "job_settled")
        return next((one for one in found if one["job_id"] == sent["id"]), None)

    assert wait_until(logged)["trace_id"] == TRACE[3:35]


def test_a_forged_host_is_turned_away(api: ApiProcess) -> None:
    for host in ("evil.com", "127.0.0.1.evil.com"):
        answer = httpx.post(f"{api.url}/v1/jobs", json=job(), headers={"Host": host})
        assert answer.status_code == 421
    answer = httpx.post(f"{api.url}/v1/jobs", json=job(), headers={"Host": "api.example"})
    assert answer.status_code == 202
    assert answer.headers["location"].startswith("/v1/jobs/")
    assert "api.example" not in answer.text


def test_only_named_origins_may_call(api: ApiProcess) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "prefer"}
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        preflight = httpx.options(f"{api.url}/v1/jobs", headers={"Origin": origin, **asked})
        assert (preflight.headers.get("access-control-allow-origin") == origin) is allowed
        answer = httpx.post(f"{api.url}/v1/jobs", json=job(), headers={"Origin": origin})
        assert ("access-control-allow-origin" in answer.headers) is allowed
        assert "access-control-allow-credentials" not in answer.headers


def test_compressed_and_doubtful_bodies_are_refused(api: ApiProcess) -> None:
    for headers, body, status in (
        ({"Content-Encoding": "gzip"}, b"{}", 415),
        ({}, b'{"model":"echo","input":1,"input":2}', 400),
        ({}, b'{"model":"echo","input":' + b"[" * 300 + b"]" * 300 + b"}", 400),
        ({}, b'{"model":"echo","input":1,"priority":true}', 422),
    ):
        json_type = {"Content-Type": "application/json"}
        answer = httpx.post(f"{api.url}/v1/jobs", content=body, headers=headers | json_type)
        assert (answer.status_code, answer.headers["content-type"]) == (
            status,
            "application/problem+json",
        )


def test_more_requests_than_may_be_under_way_are_told_to_come_again(api: ApiProcess) -> None:
    begun = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
    held = [connected(api) for _ in range(4)]
    for one in held:
        one.sendall(begun + b"Content-Type: application/json\r\n\r\n{")
    refused = wait_until(
        lambda: answer if (answer := submit(api)).status_code == 503 else None, 20, "a refusal"
    )
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["content-type"] == "application/problem+json"
    assert httpx.get(f"{api.url}/health").status_code == 200
    for one in held:
        one.close()
    wait_until(lambda: submit(api).status_code == 202, 20, "room for a request")


def submit(api: ApiProcess) -> httpx.Response:
    return httpx.post(f"{api.url}/v1/jobs", json=job())


def connected(api: ApiProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(api.url).port or 0), timeout=20)


def test_silent_connections_go_before_those_that_behave(api: ApiProcess) -> None:
    with ExitStack() as held, httpx.Client(timeout=20) as good:
        address = good.get(f"{api.url}/health").extensions["network_stream"].get_extra_info
        before = address("client_addr")
        for _ in range(120):
            held.enter_context(connected(api))
        assert httpx.get(f"{api.url}/health").status_code == 200
        again = good.get(f"{api.url}/health").extensions["network_stream"]
        assert again.get_extra_info("client_addr") == before, "it is the same connection"


def test_the_rest_of_a_body_that_was_refused_is_no_head(api: ApiProcess) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/weird\r\n"
    with connected(api) as one:
        one.sendall(head + b"Content-Length: 200000\r\n\r\nbegin")
        answered = one.recv(65_536)
        assert answered.startswith(b"HTTP/1.1 415")
        for _ in range(20):
            one.sendall(b"x" * 5_000)
        rest = b""
        while more := one.recv(65_536):
            rest += more
        assert b"HTTP/1.1" not in rest, rest


def test_idle_connections_make_room_for_new_ones(api: ApiProcess) -> None:
    held = []
    try:
        for _ in range(60):
            one = connected(api)
            one.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
            held.append(one)
        assert httpx.get(f"{api.url}/health").status_code == 200
    finally:
        for one in held:
            one.close()


def test_head_is_answered_wherever_get_is(api: ApiProcess) -> None:
    slow = {**job(), "params": {"sleep_ms": 3000}}
    with httpx.Client(base_url=api.url) as client:  # one connection: a body would be seen
        job_id = client.post("/v1/jobs", json=slow).json()["id"]
        for path in (
            "/", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/nowhere",
            "/v1/models", "/v1/models/echo", "/v1/models/nope", "/v1/lanes", "/v1/workers",
            "/v1/jobs", f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/result", "/v1/dead/echo",
        ):  # fmt: skip
            got, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (got.status_code, b""), path
            assert head.headers.get("content-type") == got.headers.get("content-type")
        events = client.head(f"/v1/jobs/{job_id}/events")
        assert events.status_code == 200
        assert events.headers["content-type"].startswith("text/event-stream")
        assert client.head("/v1/jobs/bulk/").status_code == 307
        assert client.head("/v1/embeddings").headers["allow"] == "POST"
        client.post(f"/v1/jobs/{job_id}/cancel")


def test_an_api_behind_a_path_links_to_itself(
    fleet: tuple[ApiProcess, Process], tmp_path: Path
) -> None:
    stack = Stack(fleet[0].process.environment["LANEFLEET_REDIS_URL"], tmp_path)
    rooted = stack.api("echo", LANEFLEET_ROOT_PATH="/fleet/")
    try:
        for base in (rooted.url, f"{rooted.url}/fleet"):
            with httpx.Client(base_url=base) as client:
                taken = client.post("/v1/jobs", json=job())
                path = f"/fleet/v1/jobs/{taken.json()['id']}"
                assert taken.headers["location"] == path
                assert set(taken.json()["links"].values()) == {
                    path, f"{path}/result", f"{path}/events", f"{path}/cancel"
                }  # fmt: skip
                assert (
                    httpx.get(rooted.url + path, params={"wait": 10})
                    .json()["links"]["result"]
                    .startswith(path)
                )
                late = client.post("/v1/jobs", json={**job(), "params": {"sleep_ms": 1000}})
                result = client.get(f"/v1/jobs/{late.json()['id']}/result")
                assert result.headers["location"].startswith("/fleet/v1/jobs/")
                page = client.get("/v1/jobs?limit=1").json()
                assert page["links"]["next"].startswith("/fleet/v1/jobs?limit=1&cursor=")
                assert httpx.get(rooted.url + page["links"]["next"]).json()["jobs"]
                assert client.get("/").headers["location"] == "/fleet/docs"
                assert '"/fleet/openapi.json"' in client.get("/docs").text.replace("'", '"')
                assert client.get("/openapi.json").json()["servers"][0] == {"url": "/fleet"}
                assert client.get("/health").status_code == 200
            with Client(base) as python:
                assert python.submit("echo", "through", wait=10)["state"] == "succeeded"
    finally:
        stack.close()

"""Redis takes no writes, or nothing at all: what the front answers meanwhile, and how soon."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from common.jobs.job import Job
from tests.support.metrics import scrape, value
from tests.support.stack import ApiProcess, Stack, running_redis, wait_until

QUICK_SECONDS = 1.0
PATIENT_SECONDS = 4.0
"""Under the 5 s after which a look at a silent Redis is given up; a busy machine takes seconds."""
HTTP = httpx.Client(timeout=20)
"""One for all: making one costs the machine 50 ms."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker over a Redis of its own, which the tests trouble, and a cache in another."""
    folder = tmp_path_factory.mktemp("degraded")
    (folder / "cache").mkdir()
    with running_redis(folder) as server, running_redis(folder / "cache") as cache:
        stack = Stack(server.url, folder)
        catalog = folder / "models.yaml"
        catalog.write_text("models:\n  echo: {handler: echo, cache_seconds: 3600}\n")
        stack.environment |= {
            "LANEFLEET_CATALOG": str(catalog),
            "LANEFLEET_CACHE_REDIS_URL": cache.url,
        }
        stack.worker("echo")
        yield stack
        stack.close()


@pytest.fixture(scope="module")
def api(fleet: Stack) -> ApiProcess:
    return fleet.api("echo")


@pytest.fixture
def done(api: ApiProcess) -> str:
    """The id of a job that has its result, which is kept for the same input."""
    return str(api.client.submit("echo", "earlier", wait=10)["id"])


def post(api: ApiProcess, keyed: bool = False) -> httpx.Response:
    """Submit an input that nobody has sent before."""
    body = {"model": "echo", "input": time.monotonic_ns()}
    return HTTP.post(f"{api.url}/v1/jobs", json=body, headers=fresh_key(keyed), timeout=20)


def fresh_key(keyed: bool) -> dict[str, str]:
    return {"Idempotency-Key": f"key-{time.monotonic_ns()}"} if keyed else {}


def assert_cached_is_served(api: ApiProcess, keyed: bool = False) -> None:
    body = {"model": "echo", "input": "earlier"}
    seconds = []
    for _ in range(20):
        began = time.monotonic()
        headers = {"Prefer": "wait=5", **fresh_key(keyed)}
        answer = HTTP.post(f"{api.url}/v1/jobs", json=body, headers=headers)
        seconds.append(time.monotonic() - began)
        assert answer.json()["state"] == "succeeded"
        assert answer.json()["cached"] is True
    assert_quick("cached", seconds)


def timed(api: ApiProcess, keyed: bool) -> tuple[float, httpx.Response]:
    began = time.monotonic()
    answer = post(api, keyed)
    return time.monotonic() - began, answer


def assert_refused_quickly(api: ApiProcess, status: int, code: str, keyed: bool = False) -> None:
    answers = [timed(api, keyed) for _ in range(20)]
    assert {answer.status_code for _, answer in answers} == {status}
    for _, answer in answers:
        assert answer.json()["type"].endswith(f"/{code}")
        assert int(answer.headers["retry-after"]) >= 1
    assert_quick(f"refused with {status} {code}", [seconds for seconds, _ in answers])


def assert_quick(what: str, seconds: list[float]) -> None:
    """Far from the seconds that a silent Redis takes, whatever else this machine does."""
    median, slowest = sorted(seconds)[len(seconds) // 2], max(seconds)
    print(f"{what}: median {median * 1000:.1f} ms, slowest {slowest * 1000:.1f} ms")
    assert median < QUICK_SECONDS
    assert slowest < PATIENT_SECONDS, "none waited for Redis"


def assert_takes_work_again(fleet: Stack, api: ApiProcess) -> None:
    began = time.monotonic()
    wait_until(lambda: post(api).status_code == 202, 20, "the queue to take work")
    print(f"taken again after {time.monotonic() - began:.2f} s")
    assert api.client.submit("echo", time.monotonic_ns(), wait=10)["state"] == "succeeded"
    assert HTTP.get(f"{api.url}/ready").json()["status"] == "ready"


def test_a_full_redis_refuses_work_and_is_drained(fleet: Stack, api: ApiProcess, done: str) -> None:
    with fleet.redis as client:
        client.config_set("maxmemory-policy", "noeviction")
        ids = fleet.publish([Job("echo", n, {"sleep_ms": 20}) for n in range(200)])
        client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
    assert_refused_quickly(api, 429, "queue-full")
    assert_cached_is_served(api)
    assert HTTP.get(f"{api.url}/health").status_code == 200
    ready = HTTP.get(f"{api.url}/ready")
    assert ready.status_code == 200
    assert (ready.json()["status"], ready.json()["queue"]) == ("degraded", "queue_full")
    assert ready.json()["lanes_without_worker"] == [], "workers report to a full server too"
    assert api.client.get(done)["state"] == "succeeded", "reads go on"
    wait_until(lambda: fleet.states(ids).get("succeeded") == 200, 20, "what waits is done")
    fleet.redis.config_set("maxmemory", 0)
    assert_takes_work_again(fleet, api)


@pytest.mark.parametrize(
    ("trouble", "cure"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
        ),
    ],
    ids=["replica", "too few replicas"],
)
def test_a_redis_that_takes_no_writes_is_still_read(
    fleet: Stack, api: ApiProcess, done: str, trouble: tuple[str, ...], cure: tuple[str, ...]
) -> None:
    fleet.redis.execute_command(*trouble)
    try:
        wait_until(lambda: post(api).status_code == 503, 20, "a refusal")
        assert_refused_quickly(api, 503, "queue-unavailable")
        assert HTTP.get(f"{api.url}/ready").json()["status"] == "degraded"
        assert api.client.get(done)["state"] == "succeeded"
    finally:
        fleet.redis.execute_command(*cure)
    assert_takes_work_again(fleet, api)


@contextmanager
def hanging(fleet: Stack) -> Iterator[None]:
    """While this lasts Redis answers nobody."""
    with fleet.redis as client:
        pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_redis_that_hangs_does_not_hang_the_front(
    fleet: Stack, api: ApiProcess, done: str
) -> None:
    with hanging(fleet):
        began = time.monotonic()
        assert post(api).status_code == 503
        print(f"the first request was answered after {time.monotonic() - began:.2f} s")
        assert_refused_quickly(api, 503, "queue-unavailable")
        seconds = []
        for _ in range(50):
            asked = time.monotonic()
            assert HTTP.get(f"{api.url}/health").status_code == 200
            seconds.append(time.monotonic() - asked)
        assert_quick("/health meanwhile", seconds)
        assert_cached_is_served(api)
        assert HTTP.get(f"{api.url}/ready").status_code == 503
        assert_lanes_are_unknown(api)
    assert_takes_work_again(fleet, api)
    text = scrape(f"{api.url}/metrics")
    assert value(text, "lanefleet_api_redis_reachable") == 1
    assert "lanefleet_lane_demand" in text


def assert_lanes_are_unknown(api: ApiProcess) -> None:
    """Old gauges would look like true ones; counters stay, as they cannot go back."""
    text = scrape(f"{api.url}/metrics")
    assert "lanefleet_api_redis_reachable 0.0" in text
    assert "lanefleet_lane_demand" not in text
    assert "lanefleet_lane_jobs_total" in text
    answer = HTTP.get(f"{api.url}/v1/workers")
    assert answer.status_code == 503
    assert "what was asked for is unknown" in answer.json()["detail"], "no job was sent"


def test_a_redis_that_hangs_holds_up_no_idempotency_key(
    fleet: Stack, api: ApiProcess, done: str
) -> None:
    with hanging(fleet):
        assert post(api).status_code == 503
        assert_refused_quickly(api, 503, "queue-unavailable", keyed=True)
        assert_cached_is_served(api, keyed=True)
    assert_takes_work_again(fleet, api)

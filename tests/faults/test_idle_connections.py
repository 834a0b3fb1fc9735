"""A NAT that forgets silent connections and tells nobody: the first job afterwards is as quick."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.support.proxy import FaultyProxy
from tests.support.stack import ApiProcess, Stack

FORGOTTEN_AFTER = 5.0


@pytest.fixture
def proxy(stack: Stack) -> Iterator[FaultyProxy]:
    with closing(FaultyProxy(stack.redis_url)) as made:
        yield made


@pytest.fixture
def behind(stack: Stack, proxy: FaultyProxy) -> Iterator[Stack]:
    made = Stack(proxy.url, stack.folder, {"LANEFLEET_REDIS_KEEPALIVE_SECONDS": "2"})
    yield made
    made.close()


@pytest.mark.slow
def test_the_first_job_after_a_silent_hour_is_as_quick_as_any(
    proxy: FaultyProxy, behind: Stack
) -> None:
    behind.worker("echo")
    api = behind.api("echo")
    proxy.idle_seconds = FORGOTTEN_AFTER
    took = []
    for round_ in range(3):
        use_many_connections(api, round_)
        time.sleep(FORGOTTEN_AFTER + 1)  # the silence
        began = time.monotonic()
        job = api.client.submit("echo", f"first {round_}", wait=10)
        took.append(time.monotonic() - began)
        assert job["state"] == "succeeded"
    print(f"first jobs took {took}; {proxy.forgotten} connections were forgotten")
    assert max(took) < 4.5, "where a timeout is waited for it is five seconds and more"


def use_many_connections(api: ApiProcess, round_: int) -> None:
    """So that the pools hold some that the next job alone would not touch."""
    with ThreadPoolExecutor(16) as pool:
        jobs = pool.map(
            lambda n: api.client.submit("echo", f"{round_} {n}", wait=10)["state"], range(64)
        )
        assert set(jobs) == {"succeeded"}

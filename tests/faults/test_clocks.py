"""Only the Redis server's clock decides when a lease is over."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from common.jobs.job import Job
from common.redis.keys import LaneKeys
from common.settings import Settings
from tests.support.lanes import LANE, LEASE, RecordedLane, await_settled
from tests.support.stack import IN_CI, ROOT, Stack, wait_until
from worker.jobs.leases import LaneLeases, LeasePolicy


def faketime(offset: str) -> dict[str, str]:
    """The environment that shifts a process's clock; missing skips locally, fails in CI."""
    found = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        (pytest.fail if IN_CI else pytest.skip)("no libfaketime on this machine")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_wrong_worker_clocks_restore_nothing_early_and_everything_in_time(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    holder = stack.worker(LANE)
    ids = stack.publish([Job(LANE, "held", {"sleep_ms": 60_000})])
    wait_until(lambda: lane.executions(), 20, "the job to run")
    for offset in ("+10m", "-10m"):
        stack.worker(LANE, **faketime(offset))
    time.sleep(LEASE + 2)
    assert lane.executions() == {"held": 1}, "no early restore"
    assert stack.stats(LANE).get("reaped", 0) == 0
    holder.kill()
    killed = time.monotonic()
    wait_until(lambda: lane.executions()["held"] == 2, LEASE + 5, "another to take over")
    print(f"taken over {time.monotonic() - killed:.1f} s after the kill")
    assert stack.states(ids) == {"running": 1}


def test_deadlines_go_by_the_server_clock(stack: Stack) -> None:
    RecordedLane.on(stack)
    api = stack.api(LANE)
    stack.worker(LANE, **faketime("+10m"))
    job = api.client.submit(LANE, "in time", start_within=60, deadline=60, wait=10)
    assert job["state"] == "succeeded", job.get("error")


@pytest.mark.parametrize("offset", ["-2h", "+2h"])
def test_deadlines_of_an_api_whose_clock_is_off_go_by_the_server(stack: Stack, offset: str) -> None:
    RecordedLane.on(stack)
    stack.worker(LANE)
    api = stack.api(LANE, **faketime(offset))
    job = api.client.submit(LANE, "in time", start_within=30, deadline=30, wait=10)
    assert job["state"] == "succeeded", job.get("error")
    late = api.client.submit(LANE, "late", params={"sleep_ms": 5000}, deadline=1, wait=10)
    assert late["state"] == "expired"
    # One that nobody works on says what it was told: 30 s from now, by the server's clock.
    seconds, _ = stack.redis.time()
    queued = api.client.submit("recorder", "waits", params={"sleep_ms": 100}, deadline=30)
    assert abs(created_ms(queued) / 1000 - float(seconds)) < 10


def created_ms(job: dict[str, Any]) -> float:
    return datetime.fromisoformat(job["created_at"]).timestamp() * 1000


@pytest.mark.slow
def test_a_reaper_killed_in_mid_sweep_loses_nothing(stack: Stack) -> None:
    count = 3_000
    settings = Settings(redis_url=stack.redis_url)  # type: ignore[arg-type]
    leases = LaneLeases(stack.redis, "echo", "gone", LeasePolicy.of(settings))
    stack.publish([Job("echo", n) for n in range(count)])
    for _ in range(3):
        leases.reserve(1000, 60)
    keys = LaneKeys.of("echo")
    with stack.redis as client:
        client.zadd(keys.index, dict.fromkeys(client.zrange(keys.index, 0, -1), 1))
    code = f"""
        from common.redis.connect import connect
        from common.settings import Settings
        from worker.jobs.leases import LaneLeases, LeasePolicy
        settings = Settings()
        client = connect({stack.redis_url!r}, settings)
        leases = LaneLeases(client, "echo", "r", LeasePolicy.of(settings))
        while True:
            leases.reap(limit=1)
    """
    reaper = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
    wait_until(lambda: 0 < stack.redis.hlen(keys.unacked) < count - 100, 20, "the sweep")
    reaper.kill()
    reaper.wait()
    with stack.redis as client:
        assert client.hlen(keys.unacked) == client.zcard(keys.index) > 0
        assert client.hlen(keys.unacked) + client.llen("echo") == count
    stack.worker("echo", LANEFLEET_LEASE_SECONDS=str(LEASE))
    wait_until(lambda: stack.stats("echo").get("succeeded") == count, LEASE + 30, "all done")


def test_everything_is_settled_in_time_after_a_kill(stack: Stack) -> None:
    RecordedLane.on(stack)
    first = stack.worker(LANE)
    ids = stack.publish([Job(LANE, f"n{n}", {"sleep_ms": 300}) for n in range(32)])
    wait_until(lambda: stack.states(ids).get("running"), 20, "it to start")
    stack.worker(LANE)
    first.kill()
    await_settled(stack, ids, LEASE + 5 + 32 * 0.4)

"""Redis stands still for longer than a lease lasts: nobody alive loses a job, who died still does.

What is asked of it meanwhile waits in its sockets and runs once it goes on, reap calls before
renewals as well.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.jobs.job import Job
from tests.faults.test_redis_trouble import Server
from tests.support.lanes import LANE, Feeder, RecordedLane, await_progress, await_settled
from tests.support.stack import Process, Stack, wait_until

_LONG = [
    pytest.param(frozen, 5.0, marks=[pytest.mark.slow, pytest.mark.timeout(400)])
    for frozen in (8, 16, 30, 60)
    for _ in range(5)
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "redis").start()
    yield made
    if made.popen:
        made.popen.send_signal(signal.SIGCONT)
    made.kill()


@pytest.fixture
def stack(server: Server, tmp_path: Path) -> Iterator[Stack]:
    made = Stack(server.url, tmp_path)
    yield made
    made.close()


def freeze(server: Server, seconds: float) -> None:
    assert server.popen is not None
    server.popen.send_signal(signal.SIGSTOP)
    time.sleep(seconds)  # the fault's length
    server.popen.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(("frozen", "lease"), [(8, 2.0), *_LONG])
def test_a_frozen_redis_runs_nothing_twice(
    server: Server, stack: Stack, frozen: float, lease: float
) -> None:
    lane = RecordedLane.on(stack, max_batch=1, LANEFLEET_LEASE_SECONDS=str(lease))
    stack.worker(LANE), stack.worker(LANE)
    ids = stack.publish([Job(LANE, f"long-{n}", {"sleep_ms": 1000 * frozen + 3000}) for n in "ab"])
    wait_until(lambda: stack.states(ids).get("running") == 2, 20, "the long ones to run")
    ids += stack.publish([Job(LANE, f"short-{n}", {"sleep_ms": 300}) for n in range(10)])
    freeze(server, frozen)
    await_settled(stack, ids, frozen + 90)  # one worker may have both of the long ones
    assert stack.states(ids) == {"succeeded": 12}
    twice = {value: count for value, count in lane.executions().items() if count > 1}
    assert twice == {}, stack.stats(LANE)


@pytest.mark.parametrize(
    ("frozen", "lease"), [pytest.param(8, 2.0, marks=pytest.mark.slow), *_LONG]
)
def test_a_frozen_redis_under_load_loses_nothing_and_runs_nothing_twice(
    server: Server, stack: Stack, frozen: float, lease: float
) -> None:
    lane = RecordedLane.on(stack, LANEFLEET_LEASE_SECONDS=str(lease))
    api = stack.api(LANE)
    stack.worker(LANE), stack.worker(LANE)
    feeder = Feeder(api.url, 50).start()
    await_progress(stack, 100)
    freeze(server, frozen)
    await_progress(stack, 100)
    jobs = feeder.stop()
    await_settled(stack, list(jobs), 60)
    assert stack.states(list(jobs)) == {"succeeded": len(jobs)}
    twice = {value: count for value, count in lane.executions().items() if count > 1}
    assert twice == {}, stack.stats(LANE)


def test_a_worker_that_dies_while_redis_is_frozen_is_reaped_in_time(
    server: Server, stack: Stack
) -> None:
    lease = 2.0
    lane = RecordedLane.on(stack, max_batch=1, LANEFLEET_LEASE_SECONDS=str(lease))
    holder = stack.worker(LANE)
    gate = stack.folder / "gate"
    (held,) = stack.publish([Job(LANE, "held", {"until": str(gate)})])
    wait_until(lambda: lane.executions(), 20, "the job to run")
    other = stack.worker(LANE)
    _freeze_and_kill(server, holder)
    thawed = time.monotonic()
    wait_until(lambda: lane.executions()["held"] == 2, lease + 5, "another to take over")
    print(f"taken over {time.monotonic() - thawed:.1f} s after it went on")
    gate.touch()
    await_settled(stack, [held], 20)
    assert other.alive


def test_what_a_lone_worker_held_is_taken_over_by_one_that_starts_much_later(
    server: Server, stack: Stack
) -> None:
    lease = 2.0
    lane = RecordedLane.on(stack, max_batch=1, LANEFLEET_LEASE_SECONDS=str(lease))
    gate = stack.folder / "gate"
    (held,) = stack.publish([Job(LANE, "held", {"until": str(gate)})])
    first = stack.worker(LANE)
    wait_until(lambda: lane.executions(), 20, "the job to run")
    first.kill()
    time.sleep(2 * lease)  # nobody looks meanwhile
    stack.worker(LANE)
    wait_until(lambda: lane.executions()["held"] == 2, lease + 5, "another to take over")
    gate.touch()
    await_settled(stack, [held], 20)


def _freeze_and_kill(server: Server, holder: Process) -> None:
    assert server.popen is not None
    server.popen.send_signal(signal.SIGSTOP)
    time.sleep(3)  # more than a lease
    holder.kill()
    server.popen.send_signal(signal.SIGCONT)

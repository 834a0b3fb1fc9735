"""A scaler tells workers to leave, one after the other, while jobs arrive.

`test_workers_leaving_in_turn_under_load_lose_nothing` is its short form, which runs every time.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.support.lanes import (
    LANE,
    Feeder,
    RecordedLane,
    assert_lane_is_empty,
    assert_one_terminal_record_each,
    await_settled,
)
from tests.support.stack import Process, Stack, wait_until

SCALE_INS = int(os.environ.get("SCALE_INS", "200"))
REPLICAS = 3
BATCH_SECONDS = 0.3
MOST_SECONDS = BATCH_SECONDS + 5.0
"""The longest batch, and what ending a process may take."""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_scale_ins_at_random_moments_lose_cut_and_repeat_nothing(stack: Stack) -> None:
    lane = RecordedLane.on(stack, max_batch=8)
    api = stack.api(LANE)
    params: dict[str, object] = {"sleep_ms": BATCH_SECONDS * 1000}
    workers = [stack.worker(LANE) for _ in range(REPLICAS)]
    feeder = Feeder(api.url, 30, params=params).start()
    exits: list[float] = []
    held = 0
    for turn in range(SCALE_INS):
        rng = random.Random(turn)
        # The oldest serves; one in eight is any of them, and may be anywhere in its start.
        stack.await_worker(workers[0])
        leaving = workers.pop(0 if turn % 8 else rng.randrange(REPLICAS))
        time.sleep(rng.uniform(0, 2 * BATCH_SECONDS))  # the moment is what is random
        held += _holds_jobs(stack, leaving)
        exits.append(_told_to_leave(stack, leaving))
        workers.append(stack._start("worker", ["-m", "worker"], LANE, {}))
        stack.processes.remove(leaving)
    jobs = feeder.stop()
    await_settled(stack, list(jobs), 120)
    executions, stats = lane.executions(), stack.stats(LANE)
    print(
        f"{SCALE_INS} scale-ins, {held} of workers with jobs; "
        f"{len(jobs)} jobs: {stack.states(list(jobs))}, "
        f"{sum(executions.values()) - len(jobs)} repeated, reaped {stats.get('reaped', 0)}; "
        f"exits took {sorted(exits)[len(exits) // 2]:.2f} s, at most {max(exits):.2f} s"
    )
    assert stack.states(list(jobs)) == {"succeeded": len(jobs)}
    assert feeder.refused == {}
    assert set(executions.values()) == {1}
    assert set(executions) == set(jobs.values())
    assert (stats.get("reaped", 0), stats.get("fenced", 0)) == (0, 0)
    assert_one_terminal_record_each(stack, list(jobs))
    assert_lane_is_empty(stack)
    assert max(exits) < MOST_SECONDS


def _holds_jobs(stack: Stack, worker: Process) -> bool:
    """Whether it had any in hand half a second ago."""
    found = [report for report in stack.reports() if report.pid == worker.pid]
    return any(lane.in_hand for report in found for lane in report.lanes.values())


def _told_to_leave(stack: Stack, worker: Process) -> float:
    """Seconds from SIGTERM to its exit, with status 0 if it had begun to serve."""
    serves = worker.pid in {report.pid for report in stack.reports()}
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    wait_until(lambda: not worker.alive, 60, "it to leave")
    seconds = time.monotonic() - began
    status = worker.popen.wait()
    assert status == 0 or (not serves and status == -signal.SIGTERM), worker.output()
    return seconds

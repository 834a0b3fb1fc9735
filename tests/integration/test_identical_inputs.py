"""Identical inputs in one batch are run once, and all get the result."""

from __future__ import annotations

from common.jobs.job import Job
from tests.support.lanes import LANE, RecordedLane, await_settled
from tests.support.stack import Stack


def test_identical_inputs_of_one_batch_are_run_once(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    jobs = [Job(LANE, f"n{number % 4}", {"sleep_ms": 1}) for number in range(32)]
    other = [Job(LANE, "n0", {"sleep_ms": 2})]
    ids = stack.publish([*jobs, *other])
    stack.worker(LANE)
    await_settled(stack, ids, 20)
    assert stack.states(ids) == {"succeeded": 33}
    assert sum(lane.executions().values()) < 33
    assert max(lane.executions().values()) < 8

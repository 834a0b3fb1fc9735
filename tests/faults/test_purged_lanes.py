"""Messages that somebody took from a lane: their jobs end, with a reason, within a minute."""

from __future__ import annotations

import pytest
from celery import Celery

from common.jobs.job import Job
from common.redis.keys import LaneKeys, job_key
from tests.support.lanes import LANE, RecordedLane, await_settled
from tests.support.stack import Stack, wait_until
from worker.maintenance.reconciler import Reconciler


def purge(app: Celery) -> None:
    """As `celery purge -Q` does."""
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(LANE)


def test_purged_jobs_fail_and_what_runs_goes_on(stack: Stack) -> None:
    lane = RecordedLane.on(stack, max_batch=1)
    api, gate = stack.api(LANE), stack.folder / "gate"
    stack.worker(LANE)
    app = Celery("operator", broker=stack.redis_url, backend=stack.redis_url)
    parked = app.send_task("infer", (LANE, "parked"), queue=LANE, countdown=90)
    wait_until(lambda: stack.redis.zcard(LaneKeys.of(LANE).delayed) == 1, 20, "it to be parked")
    (first,) = stack.publish([Job(LANE, "first", {"until": str(gate)})])
    wait_until(lambda: lane.executions(), 20, "the device to be busy")
    ids = stack.publish([Job(LANE, f"n{n}", priority=n % 10) for n in range(200)])
    wait_until(lambda: stack.states(ids).get("running", 0) > 0, 20, "some to be reserved")
    canceled = ids.pop()
    api.client.cancel(canceled)
    held = [one for one in ids if stack.states([one]) == {"running": 1}]
    purge(app)
    lost = [one for one in ids if one not in held]
    await_settled(stack, lost, 60)
    assert {stack.record(one).reason for one in lost} == {"message_lost"}  # type: ignore[union-attr]
    with pytest.raises(Exception, match="the lane was purged"):
        app.AsyncResult(lost[0]).get(timeout=20)
    wait_until(lambda: not stack.redis.exists(job_key(canceled)), 60, "the canceled one's record")
    assert stack.states([canceled]) == {"canceled": 1}
    gate.touch()
    await_settled(stack, [first, *held], 20)
    assert stack.states([first, *held]) == {"succeeded": 1 + len(held)}
    assert stack.states([parked.id]) == {"queued": 1}
    assert stack.stats(LANE)["lost"] == len(lost)


@pytest.mark.slow
def test_a_purge_before_any_worker_came_is_found_too(stack: Stack) -> None:
    RecordedLane.on(stack)
    ids = stack.publish([Job(LANE, f"n{n}") for n in range(50)])
    purge(Celery("operator", broker=stack.redis_url, backend=stack.redis_url))
    stack.worker(LANE)
    await_settled(stack, ids, 60)
    assert stack.states(ids) == {"failed": 50}


def test_jobs_in_a_deep_lane_are_left_alone(stack: Stack) -> None:
    lane = RecordedLane.on(stack, max_batch=1)
    gate = stack.folder / "gate"
    stack.worker(LANE)
    stack.publish([Job(LANE, "first", {"until": str(gate)})])
    wait_until(lambda: lane.executions(), 20, "the device to be busy")
    ids = stack.publish([Job(LANE, f"n{n}") for n in range(1500)])
    stack.await_reports(3)
    gate.touch()
    await_settled(stack, ids, 90)
    assert stack.states(ids) == {"succeeded": 1500}


@pytest.mark.parametrize("purged", [False, True])
def test_only_a_lane_that_is_gone_with_its_jobs_is_looked_for_in_haste(
    stack: Stack, purged: bool
) -> None:
    """One that was drained must not have the whole of Redis read."""
    reconciler = Reconciler(stack.redis, [LANE], "worker", 60)
    (job_id,) = stack.publish([Job(LANE, 1)])
    assert not reconciler._lost_a_watched_one()
    stack.redis.delete(LANE)
    if not purged:
        stack.redis.delete(job_key(job_id))
    assert reconciler._lost_a_watched_one() == purged
    assert not reconciler._lost_a_watched_one()


def test_a_waiting_message_is_read_once(stack: Stack) -> None:
    """It may be large, and is looked at each second."""
    reconciler = Reconciler(stack.redis, [LANE], "worker", 60)
    stack.publish([Job(LANE, "x" * 100_000)])
    stack.redis.config_resetstat()
    for _ in range(5):
        assert not reconciler._lost_a_watched_one()
    assert stack.redis.info("commandstats")["cmdstat_lindex"]["calls"] == 1

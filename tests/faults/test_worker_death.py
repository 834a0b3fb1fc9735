"""Workers die, freeze and are told to leave; no job is lost and none is published twice."""

from __future__ import annotations

import itertools
import random
import signal
import time

import httpx
import pytest

from api.cli.fleet import free_port
from common.jobs.job import Job
from common.redis.keys import LaneKeys
from tests.support.lanes import (
    LANE,
    LEASE,
    Feeder,
    RecordedLane,
    assert_lane_is_empty,
    assert_one_terminal_record_each,
    await_progress,
    await_settled,
)
from tests.support.stack import Process, Stack, wait_until


@pytest.mark.parametrize(
    ("seconds", "per_second"),
    [
        pytest.param(10, 150),
        pytest.param(60, 500, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
def test_killing_workers_at_random_loses_no_job(
    stack: Stack, seconds: int, per_second: int
) -> None:
    lane = RecordedLane.on(stack)
    api = stack.api(LANE)
    workers = [stack.worker(LANE) for _ in range(3)]
    feeder = Feeder(api.url, per_second, per_request=max(1, per_second // 50)).start()
    began = time.monotonic()
    killed: set[int] = set()
    rng = random.Random(7)
    while time.monotonic() - began < seconds:
        time.sleep(2)
        victim = rng.randrange(3)
        workers[victim].kill()
        killed.add(workers[victim].pid)
        workers[victim] = stack._start("worker", ["-m", "worker"], LANE, {})
    last_kill = time.monotonic()
    jobs = feeder.stop()
    await_settled(stack, list(jobs), 60)
    waited = time.monotonic() - last_kill
    print(f"{len(jobs)} jobs, {len(killed)} kills, settled {waited:.1f} s after the last kill")
    assert stack.states(list(jobs)) == {"succeeded": len(jobs)}
    assert feeder.refused == {}
    executions = lane.executions()
    assert set(executions) == set(jobs.values()), "each ran, and nothing else did"
    hit = lane.executions_by(killed)
    assert all(count <= 1 + hit[value] for value, count in executions.items())
    assert_one_terminal_record_each(stack, list(jobs))
    assert_lane_is_empty(stack)


def test_jobs_behind_a_frozen_idle_worker_complete_elsewhere(stack: Stack) -> None:
    RecordedLane.on(stack)
    frozen = stack.worker(LANE)
    frozen.signal(signal.SIGSTOP)
    ids = stack.publish([Job(LANE, f"n{n}") for n in range(100)])
    stack.worker(LANE)
    frozen.kill()
    await_settled(stack, ids, 20)
    assert stack.states(ids) == {"succeeded": 100}


def test_a_worker_that_wakes_after_its_lease_is_fenced(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    frozen = stack.worker(LANE)
    ids = stack.publish([Job(LANE, f"n{n}", {"sleep_ms": 1500}) for n in range(4)])
    wait_until(lambda: len(lane.executions()) == 4, 20, "the batch to start")
    frozen.signal(signal.SIGSTOP)
    in_frozen_hands = lane.batch_sizes()[-1]
    other = stack.worker(LANE)
    # The second owner runs the suspects one by one, 1.5 s each; wake the first meanwhile.
    wait_until(lambda: sum(lane.executions().values()) > 4, LEASE + 10, "another to take over")
    held = stack.redis.hkeys(LaneKeys.of(LANE).unacked)
    frozen.signal(signal.SIGCONT)
    wait_until(lambda: stack.stats(LANE).get("fenced"), 20, "the late finish to be fenced")
    still = stack.redis.hkeys(LaneKeys.of(LANE).unacked)
    assert set(held) & set(still), "the second owner's lease outlived the late ack"
    await_settled(stack, ids, 30)
    assert stack.states(ids) == {"succeeded": 4}
    assert stack.stats(LANE)["succeeded"] == 4, "one published result per job"
    assert stack.stats(LANE)["fenced"] == in_frozen_hands
    assert frozen.alive
    assert other.alive


@pytest.mark.parametrize(
    ("lease", "params", "others"),
    [(2, {"sleep_ms": 4 * 2 * 1000}, 2), (3, {"spin_ms": 2 * 3 * 1000}, 1)],
    ids=["four-leases-of-sleep", "two-leases-of-pure-python"],
)
def test_a_job_longer_than_its_lease_runs_once(
    stack: Stack, lease: int, params: dict[str, float], others: int
) -> None:
    lane = RecordedLane.on(stack, LANEFLEET_LEASE_SECONDS=str(lease))
    for _ in range(1 + others):
        stack.worker(LANE)
    ids = stack.publish([Job(LANE, "long", params)])
    await_settled(stack, ids, lease * 4 + 20)
    assert lane.executions() == {"long": 1}
    assert stack.states(ids) == {"succeeded": 1}
    assert stack.stats(LANE).get("reaped", 0) == 0


def test_an_input_that_kills_its_worker_is_dead_and_its_mates_succeed(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    jobs = [Job(LANE, f"n{n}") for n in range(32)]
    jobs[13] = Job(LANE, "poison", {"die": True})
    ids = stack.publish(jobs)
    worker: Process | None = None
    for _ in itertools.count():
        if worker is None or not worker.alive:
            worker = stack._start("worker", ["-m", "worker"], LANE, {})
        if sum(stack.states(ids).get(s, 0) for s in ("succeeded", "failed")) == 32:
            break
        time.sleep(0.1)
    assert stack.states(ids) == {"succeeded": 31, "failed": 1}
    poison = stack.record(ids[13])
    assert poison is not None
    assert (poison.state, poison.reason, poison.attempts) == ("failed", "attempts_exhausted", 3)
    assert lane.executions()["poison"] == 3
    assert stack.redis.zrange(LaneKeys.of(LANE).dead, 0, -1) == [ids[13].encode()]


def probed(port: int, path: str) -> tuple[int, str]:
    """What a worker answers to a probe."""
    answer = httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=10)
    return answer.status_code, answer.json()["status"]


@pytest.mark.parametrize("soft", [False, True], ids=["sigterm", "soft-shutdown"])
def test_a_worker_told_to_leave_finishes_its_batch_and_hands_the_rest_back(
    stack: Stack, soft: bool
) -> None:
    lane = RecordedLane.on(stack, max_batch=8)
    environment = {"REMAP_SIGTERM": "SIGQUIT", "LANEFLEET_SOFT_SHUTDOWN_SECONDS": "3"}
    port = free_port()
    probes = {"LANEFLEET_WORKER_HEALTH_PORT": str(port)}
    leaving = stack.worker(LANE, **probes, **(environment if soft else {}))
    wait_until(lambda: probed(port, "ready") == (200, "ready"), 20, "it to be ready")
    ids = stack.publish([Job(LANE, f"n{n}", {"sleep_ms": 4000}) for n in range(24)])
    wait_until(lambda: len(lane.executions()) == 8, 20, "the first batch")
    wait_until(lambda: stack.states(ids).get("running", 0) > 8, 20, "the look-ahead")
    leaving.signal(signal.SIGTERM)
    wait_until(lambda: stack.states(ids).get("queued", 0) >= 16, 20, "unstarted jobs back")
    assert "succeeded" not in stack.states(ids), "at once, not when the batch has ended"
    assert probed(port, "ready") == (503, "stopping"), "nobody should count on it"
    assert probed(port, "health") == (200, "ok"), "nor kill it while its batch runs"
    status = leaving.popen.wait(30)
    assert status == (0 if not soft else status)
    assert stack.states(ids) == {"succeeded": 8, "queued": 16}
    stack.worker(LANE)
    await_settled(stack, ids, 30)
    assert stack.states(ids) == {"succeeded": 24}
    assert set(lane.executions().values()) == {1}
    assert all(stack.record(one).attempts == 1 for one in ids)  # type: ignore[union-attr]


def test_workers_leaving_in_turn_under_load_lose_nothing(stack: Stack) -> None:
    lane = RecordedLane.on(stack, max_batch=8)
    api = stack.api(LANE)
    workers = [stack.worker(LANE), stack.worker(LANE)]
    feeder = Feeder(api.url, 100, params={"sleep_ms": 5}).start()
    for turn in range(3):
        await_progress(stack, 50)
        assert workers[turn % 2].stop(20) == 0
        workers[turn % 2] = stack.worker(LANE)
    jobs = feeder.stop()
    await_settled(stack, list(jobs), 30)
    assert stack.states(list(jobs)) == {"succeeded": len(jobs)}
    assert set(lane.executions().values()) == {1}, "a graceful exit repeats nothing"

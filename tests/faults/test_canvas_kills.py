"""Celery's canvas while workers are killed: before a job's end, and with a continuation in hand."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest
from celery import Celery, Signature, chain, chord
from redis import Redis

from common.redis.keys import OUTBOX
from tests.support.lanes import LANE, RecordedLane
from tests.support.stack import Stack, wait_until
from worker.celery_integration.continuations import GROUP

SECONDS = 60
LEASE = {"LANEFLEET_LEASE_SECONDS": "1"}


class Fleet:
    """A lane of two workers and a stock client."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.lane = RecordedLane.on(stack, **LEASE)
        self.workers = [stack.worker(LANE) for _ in range(2)]
        self.app = Celery("client", broker=stack.redis_url, backend=stack.redis_url)
        self.app.set_current()

    def infer(self, value: Any = ..., **params: Any) -> Signature:
        """A job of the lane."""
        own = {} if value is ... else {"input": value}
        return self.app.signature(
            "infer", kwargs={"model": LANE, "params": params, **own}, queue=LANE
        )

    def kill(self, index: int) -> None:
        """Kill a worker and start another."""
        self.workers[index].kill()
        self.workers[index] = self.stack._start("worker", ["-m", "worker"], LANE, {})

    def await_quiet(self) -> None:
        """Nothing is left of what jobs led to."""
        wait_until(lambda: not self.stack.redis.xlen(OUTBOX), SECONDS, "an empty outbox")
        assert list(self.stack.redis.scan_iter("lf:next:*")) == []
        assert not self.stack.redis.exists("lf:outbox:failed")


def test_a_worker_killed_with_a_job_of_a_chain_continues_it_elsewhere(stack: Stack) -> None:
    fleet = Fleet(stack)
    gate = stack.folder / "gate"
    last = fleet.infer("counted").set(immutable=True)
    result = chain(fleet.infer("held", until=str(gate)), last).apply_async()
    wait_until(lambda: fleet.lane.executions()["held"], SECONDS, "it to run")
    wait_until(lambda: [*stack.redis.scan_iter("lf:next:*")], SECONDS, "what it leads to")
    for index in range(2):  # whichever has it
        fleet.kill(index)
    gate.touch()
    assert result.get(timeout=SECONDS) == "counted"
    assert fleet.lane.executions()["counted"] == 1
    fleet.await_quiet()


def holds_an_entry(redis: Redis) -> bool:
    """Whether a worker has read an entry and not finished it."""
    try:
        return bool(redis.xpending(OUTBOX, GROUP)["pending"])  # type: ignore[index]
    except Exception:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chain", "chord"])
def test_a_worker_killed_with_a_continuation_sends_it_neither_twice_nor_never(
    stack: Stack, kind: str
) -> None:
    """Where a look meets an entry in hand, the workers stop at once and are killed with it."""
    fleet = Fleet(stack)
    count = 30
    if kind == "chain":
        results = [
            (fleet.infer(f"a{n}") | fleet.infer(f"b{n}").set(immutable=True)).apply_async()
            for n in range(count)
        ]
        after = [f"b{n}" for n in range(count)]
    else:
        results = [
            chord(
                [fleet.infer(f"a{n}"), fleet.infer(f"c{n}")],
                fleet.infer(f"b{n}").set(immutable=True),
            ).apply_async()
            for n in range(count)
        ]
        after = [f"b{n}" for n in range(count)]
    seen = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and seen < 2:
        if holds_an_entry(stack.redis):
            seen += 1
            for worker in fleet.workers:
                worker.signal(signal.SIGSTOP)
            for index in range(2):
                fleet.kill(index)
        elif all(one.ready() for one in results):
            break
    assert [one.get(timeout=SECONDS) for one in results] == after
    executions = fleet.lane.executions()
    killed = fleet.lane.executions_by(
        {int(line.split(" ")[1]) for line in fleet.lane.ledger.read_text().splitlines()}
        - {one.pid for one in fleet.workers}
    )
    assert all(executions[one] <= 1 + killed[one] for one in after)
    succeeded = stack.stats(LANE)["succeeded"]
    assert succeeded == (2 if kind == "chain" else 3) * count, "one result each, and no job more"
    fleet.await_quiet()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_canvases_under_kills_at_random_are_all_continued_once(stack: Stack) -> None:
    fleet = Fleet(stack)
    rng = random.Random(int(os.environ.get("SEED", "5")))
    began, results, jobs = time.monotonic(), [], 0
    while time.monotonic() - began < 90:
        name = f"n{len(results)}"
        if rng.random() < 0.5:
            steps = [fleet.infer(f"{name}-{step}").set(immutable=True) for step in range(4)]
            results.append((chain(*steps).apply_async(), f"{name}-3"))
            jobs += 4
        else:
            parts = [fleet.infer(f"{name}-{part}") for part in range(5)]
            body = fleet.infer(f"{name}-body").set(immutable=True)
            results.append((chord(parts, body).apply_async(), f"{name}-body"))
            jobs += 6
        time.sleep(0.05)
        if rng.random() < 0.03:
            fleet.kill(rng.randrange(2))
    assert [one.get(timeout=SECONDS) for one, _ in results] == [value for _, value in results]
    assert stack.stats(LANE)["succeeded"] == jobs
    fleet.await_quiet()
    print(f"{len(results)} canvases of {jobs} jobs")

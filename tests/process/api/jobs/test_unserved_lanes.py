"""A lane that no worker has: what falls due, lapses or is too late there, by a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery
from redis import Redis

from api.jobs.unserved_lanes import CarePolicy, UnservedLanes
from api.overload.lane_sampler import LaneSampler
from api.overload.lane_state import ColdStarts, LaneState
from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.redis.connect import connect_async
from common.redis.keys import LaneKeys
from common.settings import Settings
from tests.support.stack import Stack
from worker.jobs.lease_calls import RetryJob
from worker.jobs.leases import LaneLeases, LeasePolicy

LANE = "echo"
KEYS = LaneKeys.of(LANE)
SETTINGS = Settings(lease_seconds=1.0)
COLD_SECONDS = 600.0
TTL = 1000

State = Callable[[], LaneState]


async def looked_after(
    stack: Stack, until: Callable[[LaneState], bool], replicas: int = 1
) -> LaneState:
    """Let so many API processes look after the lane until it is so, as one of them samples it."""
    async with AsyncExitStack() as exits:
        samplers = []
        for _ in range(replicas):
            client = connect_async(stack.redis_url, SETTINGS)
            exits.push_async_callback(client.aclose)
            sampler = LaneSampler(client, [LANE], 1_000_000, ColdStarts({}, COLD_SECONDS))
            unserved = UnservedLanes(client, sampler, lambda _lane: TTL, CarePolicy.of(SETTINGS))
            await sampler.start()
            exits.push_async_callback(sampler.stop)
            await unserved.start()
            exits.push_async_callback(unserved.stop)
            samplers.append(sampler)
        deadline = time.monotonic() + 60
        while True:
            await samplers[0].refresh()
            assert samplers[0].trouble is None, samplers[0].trouble
            state = samplers[0].lane(LANE)
            if until(state):
                return state
            assert time.monotonic() < deadline, state
            await asyncio.sleep(0.1)


@contextmanager
def listening(client: Redis) -> Iterator[Callable[[], Sequence[str]]]:
    """The ids of the jobs whose results were published meanwhile."""
    with client.pubsub() as listener:
        listener.psubscribe("celery-task-meta-*")
        listener.get_message(timeout=20)

        def heard() -> list[str]:
            listener.ping()
            ids = []
            while (told := listener.get_message(timeout=20)) and told["type"] != "pong":
                ids.append(told["channel"].decode().removeprefix("celery-task-meta-"))
            return ids

        yield heard


def leases(stack: Stack) -> LaneLeases:
    """A worker of the lane that is not there any more once the test has used it."""
    policy = LeasePolicy.of(SETTINGS)._replace(lease_ms=300)
    return LaneLeases(stack.redis, LANE, "gone", policy)


def test_a_retrying_job_is_demand_once_its_time_comes_near_and_then_waits(stack: Stack) -> None:
    publish_many(stack.redis, [Job(LANE, 1, id=name) for name in "abc"])
    worker, delays = leases(stack), (500, 300_000, 86_400_000)
    held = zip(worker.reserve(5, TTL).leases, "abc", delays, strict=True)
    worker.retry([RetryJob(one.tag, name, delay_ms=ms, error="busy") for one, name, ms in held])
    state = asyncio.run(looked_after(stack, lambda lane: any(lane.waiting)))
    assert (sum(state.waiting), state.delayed, state.due, state.demand) == (1, 2, 1, 2)
    assert state.oldest_age_seconds >= 0.5


def test_a_lapsed_lease_waits_again(stack: Stack) -> None:
    publish_many(stack.redis, [Job(LANE, n) for n in range(300)])
    assert len(leases(stack).reserve(300, TTL).leases) == 300
    state = asyncio.run(looked_after(stack, lambda lane: lane.leased == 0))
    assert (sum(state.waiting), state.demand) == (300, 300)
    assert stack.stats(LANE)["reaped"] == 300


def test_jobs_past_their_deadline_end_in_the_bands_and_beside_them(stack: Stack) -> None:
    now = int(time.time() * 1000)
    late = [Job(LANE, n, tenant="acme", deadline_ms=now + 500) for n in range(100)]
    late += [Job(LANE, n, priority=6, deadline_ms=now + 500) for n in range(50)]
    kept = [Job(LANE, n, tenant="beta") for n in range(30)]
    publish_many(stack.redis, [*late, *kept])
    state = asyncio.run(looked_after(stack, lambda lane: lane.demand == 30))
    assert state.beside == 30 - SETTINGS.tenant_window_jobs
    assert stack.states([job.id for job in late]) == {"expired": 150}
    assert stack.states([job.id for job in kept]) == {"queued": 30}
    assert stack.stats(LANE)["expired"] == 150


def test_what_was_canceled_is_no_demand(stack: Stack) -> None:
    jobs = [Job(LANE, n) for n in range(20)]
    publish_many(stack.redis, jobs)
    canceling = leases(stack)
    for job in jobs[:15]:
        assert canceling.cancel(job.id, TTL, "canceled") == "canceled"
    assert asyncio.run(looked_after(stack, lambda lane: lane.demand == 5)).demand == 5


def test_an_eta_job_is_no_demand_before_its_time_comes_near(stack: Stack) -> None:
    app = Celery("producer", broker=stack.redis_url)
    for seconds in (2, 300, 86_400):
        eta = datetime.now(UTC) + timedelta(seconds=seconds)
        app.send_task("infer", kwargs={"model": LANE, "input": 1}, queue=LANE, eta=eta)
    state = asyncio.run(looked_after(stack, lambda lane: lane.delayed == 2 and any(lane.waiting)))
    assert (sum(state.waiting), state.due, state.demand) == (1, 1, 2)
    assert state.oldest_age_seconds < 60, "it counts from its ETA"


def test_four_replicas_settle_and_promote_each_job_once(stack: Stack) -> None:
    now = int(time.time() * 1000)
    late = [Job(LANE, n, deadline_ms=now + 800) for n in range(200)]
    with listening(stack.redis) as heard:
        publish_many(stack.redis, late)
        worker = leases(stack)
        retried = worker.reserve(100, TTL).leases
        worker.retry(
            [RetryJob(one.tag, _id(one.message), delay_ms=300 + n) for n, one in enumerate(retried)]
        )
        worker.reserve(50, TTL)
        state = asyncio.run(looked_after(stack, lambda lane: lane.backlog == 0, replicas=4))
        ids = heard()
    assert sorted(ids) == sorted(job.id for job in late), "each once"
    assert state.counters["expired"] == 200
    assert state.counters["reaped"] == 50
    assert stack.states([job.id for job in late]) == {"expired": 200}


@pytest.mark.parametrize("reported", [0, 1])
def test_lanes_of_live_workers_are_left_to_them(stack: Stack, reported: int) -> None:
    async def look() -> int:
        client = connect_async(stack.redis_url, SETTINGS)
        sampler = LaneSampler(client, [LANE], 1_000_000)
        sampler.lanes = {LANE: LaneState(waiting=(1, 0, 0, 0), delayed=1, reported=reported)}
        unserved = UnservedLanes(client, sampler, lambda _lane: TTL, CarePolicy.of(SETTINGS))
        pause = await unserved.look()
        await client.aclose()
        assert 0 < pause <= SETTINGS.reap_interval_seconds
        return int(stack.redis.exists(KEYS.pulse))  # type: ignore[arg-type]

    assert asyncio.run(look()) == (0 if reported else 1)


def _id(message: bytes) -> str:
    return message.split(b'"id":"', 1)[1].split(b'"', 1)[0].decode()

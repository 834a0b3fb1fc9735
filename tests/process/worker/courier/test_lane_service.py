"""A system lane's service: jobs run, run again when their runner says so, and outlive a courier."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from redis import Redis

from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.jobs.system_lanes import BATCHES, system_tenant
from common.redis.connect import connect, connect_async
from common.redis.embedded_server import RedisServer
from common.redis.keys import LaneKeys, job_key
from common.settings import Settings
from worker.courier.jobs import CourierJob, Done, Later, Outcome, Runner
from worker.courier.lane_service import LaneService
from worker.courier.leases import CourierLeases

SETTINGS = Settings(lease_seconds=1.0)
KEYS = LaneKeys.of(BATCHES)


class Script(Runner):
    """Ends jobs as told, and writes down what it ran."""

    concurrency = 2

    def __init__(self, outcomes: dict[str, list[Outcome | Exception]]) -> None:
        self.outcomes = outcomes
        self.ran: list[str] = []
        self.holding = asyncio.Event()

    async def run(self, job: CourierJob) -> Outcome:
        self.ran.append(str(job.input))
        outcomes = self.outcomes.get(str(job.input))
        if outcomes is None:
            self.holding.set()
            await asyncio.Event().wait()
        assert outcomes is not None
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def client(embedded_redis: RedisServer) -> Iterator[Redis]:
    with connect(embedded_redis.url, SETTINGS) as found:
        found.flushall()
        yield found


def put(client: Redis, *inputs: str, tenant: str = "") -> list[Job]:
    jobs = [Job(BATCHES, one, tenant=tenant) for one in inputs]
    publish_many(client, jobs)
    return jobs


def left(client: Redis) -> int:
    return sum(client.llen(band) for band in KEYS.bands) + client.hlen(KEYS.unacked)


async def served(url: str, runner: Runner, until: object, settings: Settings = SETTINGS) -> None:
    """Serve the lane until the condition holds."""
    assert callable(until)
    redis, stopping = connect_async(url, settings), asyncio.Event()
    service = LaneService(CourierLeases(redis, BATCHES, "me", settings), runner, 0.2, 0.1)
    serving = asyncio.create_task(service.run(stopping))
    async with asyncio.timeout(20):
        while not until():
            await asyncio.sleep(0.01)
    stopping.set()
    await serving
    await redis.aclose()


def test_jobs_are_run_and_settled(client: Redis, embedded_redis: RedisServer) -> None:
    names = [f"n{number}" for number in range(20)]
    jobs = put(client, *names, tenant=system_tenant("acme"))
    runner = Script({name: [Done({"n": 1})] for name in names})
    asyncio.run(served(embedded_redis.url, runner, lambda: not left(client)))
    assert sorted(runner.ran) == sorted(names)
    assert not client.exists(*(job_key(job.id) for job in jobs))
    assert not client.hgetall("lf:tenants:in_flight")


def test_a_job_that_is_to_run_later_or_raised_runs_again(
    client: Redis, embedded_redis: RedisServer
) -> None:
    put(client, "later")
    runner = Script({"later": [Later(50), Later(50), Done()]})
    asyncio.run(served(embedded_redis.url, runner, lambda: len(runner.ran) == 3))
    assert not left(client)


def test_what_a_courier_had_in_hand_when_told_to_leave_returns_to_the_lane(
    client: Redis, embedded_redis: RedisServer
) -> None:
    put(client, "endless")
    runner = Script({})
    asyncio.run(served(embedded_redis.url, runner, runner.holding.is_set))
    assert client.llen(KEYS.bands[0]) == 1
    assert client.hlen(KEYS.unacked) == 0


def test_a_job_of_a_courier_that_died_is_run_by_another(
    client: Redis, embedded_redis: RedisServer
) -> None:
    put(client, "orphan")

    async def reserve_and_die() -> None:
        redis = connect_async(embedded_redis.url, SETTINGS)
        assert len(await CourierLeases(redis, BATCHES, "dead", SETTINGS).reserve(5)) == 1
        await redis.aclose()

    asyncio.run(reserve_and_die())
    runner = Script({"orphan": [Done()]})
    asyncio.run(served(embedded_redis.url, runner, lambda: not left(client)))
    assert runner.ran == ["orphan"]


def test_a_job_that_lasts_longer_than_its_lease_runs_once(
    client: Redis, embedded_redis: RedisServer
) -> None:
    put(client, "long")

    class Long(Script):
        async def run(self, job: CourierJob) -> Outcome:
            self.ran.append(job.id)
            await asyncio.sleep(1.6)
            return Done()

    runner = Long({})
    asyncio.run(served(embedded_redis.url, runner, lambda: runner.ran and not left(client)))
    assert len(runner.ran) == 1


def test_a_courier_leaves_while_redis_is_away_and_forgets_nothing_that_ended(
    client: Redis, embedded_redis: RedisServer
) -> None:
    put(client, "ended")

    async def run() -> None:
        redis, stopping = connect_async(embedded_redis.url, SETTINGS), asyncio.Event()
        leases = CourierLeases(redis, BATCHES, "me", SETTINGS)
        runner, away = Script({"ended": [Done()]}), asyncio.Event()
        finish = leases.finish

        async def lost(*_: object) -> list[int]:
            away.set()
            raise ConnectionError("away")

        leases.finish = lost  # type: ignore[method-assign]
        service = LaneService(leases, runner, 0.2, 0.1)
        serving = asyncio.create_task(service.run(stopping))
        async with asyncio.timeout(20):
            await away.wait()
            stopping.set()
            await serving
        assert [job.input for job, _ in service._ended] == ["ended"], "it was not settled"
        leases.finish = finish  # type: ignore[method-assign]
        await service._settle()
        assert service._ended == []
        await redis.aclose()

    asyncio.run(run())
    assert not left(client)


def test_a_courier_that_can_settle_nothing_any_more_ends(
    client: Redis, embedded_redis: RedisServer
) -> None:
    """It would hold its jobs, and look healthy, for ever."""
    put(client, "a")

    class Broken(Script):
        async def note(self, ended: object) -> None:
            raise RuntimeError("broken")

    async def run() -> None:
        redis = connect_async(embedded_redis.url, SETTINGS)
        service = LaneService(
            CourierLeases(redis, BATCHES, "me", SETTINGS), Broken({"a": [Done()]}), 0.2, 0.1
        )
        async with asyncio.timeout(20):
            with pytest.raises(RuntimeError, match="broken"):
                await service.run(asyncio.Event())
        await redis.aclose()

    asyncio.run(run())


def test_jobs_in_hand_may_end_when_their_courier_is_told_to_leave(
    client: Redis, embedded_redis: RedisServer
) -> None:
    put(client, "short")

    class Short(Script):
        leave_seconds = 20.0

        async def run(self, job: CourierJob) -> Outcome:
            self.holding.set()
            await asyncio.sleep(0.3)
            self.ran.append(job.id)
            return Done()

    runner = Short({})
    asyncio.run(served(embedded_redis.url, runner, runner.holding.is_set))
    assert len(runner.ran) == 1
    assert not left(client)

"""The front's publisher against a real Redis: batches form, errors arrive, retries heal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.jobs.publisher import Publisher
from common.errors import LaneFull
from common.jobs.job import Job
from common.redis.connect import connect_async
from tests.support.stack import Stack

MANY = 300


@asynccontextmanager
async def publishing(stack: Stack, max_backlog: int = 1_000_000) -> AsyncIterator[Publisher]:
    client = connect_async(stack.redis_url, stack.settings)
    yield Publisher(client, max_backlog)
    await client.aclose()


def trips(stack: Stack) -> int:
    return int(stack.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_what_arrives_while_trips_are_out_shares_the_next(stack: Stack) -> None:
    async def run() -> None:
        async with publishing(stack) as publisher:
            await publisher.publish(Job("echo", "the script is loaded"))
            before = trips(stack)
            stack.redis.client_pause(20_000, all=False)
            first = [asyncio.create_task(publisher.publish(Job("echo", n))) for n in range(MANY)]
            for task in first:
                await asyncio.sleep(0)
                assert not task.done()
            later = [publisher.publish(Job("echo", n)) for n in range(MANY)]
            stack.redis.client_unpause()
            await asyncio.gather(*first, *later)
            assert trips(stack) - before <= 4

    asyncio.run(run())
    assert stack.redis.llen("echo") == 2 * MANY + 1


def test_each_waiter_hears_of_its_own_job(stack: Stack) -> None:
    async def run() -> list[int | BaseException]:
        async with publishing(stack, max_backlog=3) as publisher:
            jobs = (publisher.publish(Job("echo", n)) for n in range(5))
            return await asyncio.gather(*jobs, return_exceptions=True)

    outcomes = asyncio.run(run())
    assert outcomes[:3] == [0, 1, 2]
    assert [type(one) for one in outcomes[3:]] == [LaneFull, LaneFull]


def test_a_connection_lost_on_the_way_costs_no_job_and_doubles_none(own_stack: Stack) -> None:
    async def run() -> None:
        async with publishing(own_stack) as publisher:
            await publisher.publish(Job("echo", "first"))
            own_stack.redis.client_pause(20_000, all=False)
            waiting = [asyncio.create_task(publisher.publish(Job("echo", n))) for n in range(50)]
            while not own_stack.redis.info("clients")["blocked_clients"]:
                await asyncio.sleep(0.01)
            assert own_stack.redis.client_kill_filter(_type="normal", skipme=True) > 0
            assert not any(task.done() for task in waiting)
            own_stack.redis.client_unpause()
            await asyncio.gather(*waiting)

    asyncio.run(run())
    assert own_stack.redis.llen("echo") == 51


def test_a_server_that_forgot_the_script_is_given_it_again(stack: Stack) -> None:
    async def run() -> None:
        async with publishing(stack) as publisher:
            await publisher.publish(Job("echo", 1))
            stack.redis.script_flush()
            await publisher.publish(Job("echo", 2))

    asyncio.run(run())
    assert stack.redis.llen("echo") == 2

"""The list of jobs and the places in a lane, against a real Redis and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import redis.asyncio

from api.background.server_clock import ServerClock
from api.http.request_errors import InvalidCursor
from api.jobs.listing import JobFilter, Listing
from api.jobs.queue_position import QueuePositions
from api.jobs.store import JobStore
from common.jobs.enqueue import enqueue_args
from common.jobs.job import Job
from common.jobs.record import JobRecord, JobState
from common.redis.connect import connect_async
from common.redis.keys import META_PREFIX, job_key
from common.redis.scripts import Scripts
from tests.support.stack import Stack

T = TypeVar("T")


def with_redis(stack: Stack, use: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T:
    async def run() -> T:
        client = connect_async(stack.redis_url, stack.settings)
        try:
            return await use(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


def listed(stack: Stack, limit: int = 200, **wanted: object) -> list[JobRecord]:
    """All pages."""

    async def read(client: redis.asyncio.Redis) -> list[JobRecord]:
        records: list[JobRecord] = []
        cursor: str | None = None
        while True:
            page = await Listing(client).page("", JobFilter(**wanted), limit, cursor)  # type: ignore[arg-type]
            assert len(page.records) <= limit
            records += page.records
            cursor = page.next_cursor
            if cursor is None:
                return records

    return with_redis(stack, read)


def ids_of(records: list[JobRecord]) -> list[str]:
    return [record.id for record in records]


def echoes(count: int, lane: str = "echo", priority: int = 0) -> list[Job]:
    return [Job(lane, number, priority=priority) for number in range(count)]


def next_moment() -> datetime:
    """A time that is later than that of every job so far, which is in milliseconds."""
    before = datetime.now(UTC)
    while (now := datetime.now(UTC)) < before + timedelta(milliseconds=2):
        pass
    return now


def test_every_job_is_listed_once_newest_first(stack: Stack) -> None:
    published = stack.publish(echoes(1_203))
    for _ in range(5):
        published += stack.publish(echoes(1))
    for limit in (1, 7, 200):
        assert ids_of(listed(stack, limit)) == published[::-1]


def test_pages_stay_in_step_while_jobs_arrive(stack: Stack) -> None:
    published = stack.publish(echoes(300)) + [stack.publish(echoes(1))[0] for _ in range(30)]

    async def read(client: redis.asyncio.Redis) -> list[str]:
        listing, seen, cursor = Listing(client), [], None
        while True:
            page = await listing.page("", JobFilter(), 17, cursor)
            seen += [record.id for record in page.records]
            await asyncio.to_thread(stack.publish, echoes(23))
            cursor = page.next_cursor
            if cursor is None:
                return seen

    assert with_redis(stack, read) == published[::-1]


def test_the_list_can_be_narrowed(stack: Stack) -> None:
    first = stack.publish(echoes(40))
    began = next_moment()
    mixed = [
        Job(lane, n) for n in range(600) for lane in ("echo", "minilm", "minilm@2", "resnet50")
    ]
    second = stack.publish(mixed)
    ended = next_moment()
    stack.publish(echoes(40))
    rare = [one.id for one in mixed if one.model == "minilm@2"]
    assert sorted(ids_of(listed(stack, model="minilm@2"))) == sorted(rare)
    between = listed(stack, created_after=began, created_before=ended)
    assert sorted(ids_of(between)) == sorted(second)
    assert ids_of(listed(stack, created_before=began)) == first[::-1]
    assert len(listed(stack, created_after=ended)) == 40
    assert listed(stack, model="nobody") == []

    async def settle(client: redis.asyncio.Redis) -> None:
        for job_id in rare[:3]:
            await JobStore(client, 60).cancel(job_id)

    with_redis(stack, settle)
    canceled = listed(stack, state=JobState.CANCELED)
    assert sorted(ids_of(canceled)) == sorted(rare[:3])
    assert {(one.lane, one.reason) for one in canceled} == {("minilm@2", "canceled")}
    assert len(listed(stack, state=JobState.QUEUED)) == 40 + 2_400 + 40 - 3


def test_results_stay_where_they_are(stack: Stack) -> None:
    """A listed job is known from the end of its result; a foreign worker's has no such end."""
    ours, large, foreign, gone = stack.publish(echoes(4))
    about = b'"lanefleet":{"state":"succeeded","lane":"echo","attempts":1,"created_ms":5}}'
    with stack.redis as client:
        for one in (ours, large, foreign, gone):
            client.delete(job_key(one))
        client.set(META_PREFIX + ours, b'{"status":"SUCCESS","result":1,' + about)
        decoy = b'{"status":"SUCCESS","result":{"lanefleet":{"state":"failed"}, "x":"%b"},'
        client.set(META_PREFIX + large, decoy % (b"x" * 3_000_000) + about)
        client.set(META_PREFIX + foreign, b'{"status": "FAILURE", "result": {}}')
    records = {record.id: record for record in listed(stack)}
    assert {one: record.state.value for one, record in records.items()} == {
        ours: "succeeded",
        large: "succeeded",
        foreign: "failed",
    }
    assert records[large].created_ms == 5
    assert ids_of(listed(stack, state=JobState.FAILED)) == [foreign]


def test_the_index_is_bounded_in_jobs_and_tenants_have_their_own(stack: Stack) -> None:
    scripts = Scripts(stack.redis)
    mine = [Job("echo", n, tenant="mine") for n in range(40)]
    scripts.run("enqueue", (), enqueue_args(mine, 1_000_000, list_max=500))
    for _ in range(40):
        scripts.run("enqueue", (), enqueue_args(echoes(100), 1_000_000, list_max=500))
    for _ in range(1_000):
        scripts.run("enqueue", (), enqueue_args(echoes(1), 1_000_000, list_max=500))
    with stack.redis as client:
        client.delete(*(job_key(job.id) for job in mine[:3]))
    assert 500 <= len(listed(stack)) <= 800, "Redis trims whole nodes, once in a hundred jobs"

    async def read(client: redis.asyncio.Redis) -> list[JobRecord]:
        return list((await Listing(client).page("mine", JobFilter(), 200, None)).records)

    assert ids_of(with_redis(stack, read)) == [job.id for job in mine[:2:-1]]


def test_a_job_that_is_known_is_not_refused_by_a_full_lane(stack: Stack) -> None:
    """Its input, put aside a second time, would be dropped with the refusal."""
    scripts, jobs = Scripts(stack.redis), echoes(3)
    assert scripts.run("enqueue", (), enqueue_args(jobs, 3)) == [0, 1, 2]
    assert scripts.run("enqueue", (), enqueue_args([*jobs, *echoes(1)], 3)) == [3, 3, 3, -1]


def test_a_cursor_that_is_none_of_ours_is_refused(stack: Stack) -> None:
    async def read(client: redis.asyncio.Redis) -> None:
        for cursor in ("x", "am9icw", "é", "%%%", "a" * 63):
            with pytest.raises(InvalidCursor):
                await Listing(client).page("", JobFilter(), 10, cursor)

    with_redis(stack, read)


def test_an_index_that_lost_its_count_begins_anew(stack: Stack) -> None:
    stack.publish(echoes(10))
    with stack.redis as client:
        client.delete("lf:jobs::count")
    later = stack.publish(echoes(3))
    assert ids_of(listed(stack)) == later[::-1]


def places(stack: Stack, ids: list[str]) -> list[int]:
    async def read(client: redis.asyncio.Redis) -> list[int]:
        store, found = (
            JobStore(client, 60),
            QueuePositions(client, lambda _lane: 100.0, ServerClock()),
        )

        async def place(job_id: str) -> int:
            record = await store.get(job_id)
            assert record is not None
            at = await found.of(record)
            if at is None:
                return -1
            assert at.start_ms is not None
            assert abs(at.start_ms - time.time() * 1000 - at.ahead * 10) < 5_000
            return at.ahead

        return list(await asyncio.gather(*map(place, ids)))

    return with_redis(stack, read)


def test_a_waiting_job_knows_its_place(stack: Stack) -> None:
    one_by_one = [stack.publish(echoes(1))[0] for _ in range(30)]
    together = stack.publish(echoes(700))
    ids = one_by_one + together
    assert places(stack, ids) == list(range(730))
    low = stack.publish(echoes(3, priority=6))
    assert places(stack, low) == [730, 731, 732]
    front = stack.publish(echoes(1))
    assert places(stack, front + low[:1]) == [730, 731]
    with stack.redis as client:
        client.rpush("echo", *client.rpop("echo", 3))  # handed back, and in another order
        assert places(stack, [ids[3], ids[20], ids[-1]]) == [3, 20, 729]
        assert set(places(stack, ids[:3])) <= {-1, 0, 1, 2}
        client.set(job_key(ids[5]), f"r echo {int(time.time() * 1000)} 0 1 0 t 1 w ")
    assert places(stack, [ids[5]]) == [-1]


def test_a_place_deep_in_a_long_lane_is_about_right_and_cheap(stack: Stack) -> None:
    ids = []
    for _ in range(60):
        ids += stack.publish(echoes(500))
    with stack.redis as client:
        client.config_resetstat()
        chosen = range(0, 30_000, 1_000)
        found = places(stack, [ids[at] for at in chosen])
        spent = client.info("commandstats")["cmdstat_evalsha"]["usec"]
    print(f"{spent / len(chosen):.0f} us to place a job among 30,000")
    for at, ahead in zip(chosen, found, strict=True):
        deep = 4_096 < at < 30_000 - 4_096
        # By the time of its arrival, so as far out as the machine held up some of these.
        assert abs(ahead - at) <= (15_000 if deep else 0), (at, ahead)


def test_jobs_of_plain_celery_clients_between_ours_do_no_harm(stack: Stack) -> None:
    ids = stack.publish(echoes(10))
    with stack.redis as client:
        client.lpush("echo", b"garbage", b'{"headers":{"id":"foreign"},"body":""}')
    ids += stack.publish(echoes(10))
    assert places(stack, ids) == [*range(10), *range(12, 22)]


def test_pages_of_one_tenant_take_turns_and_leave_others_alone(stack: Stack) -> None:
    """However many are asked for at once, few scripts of theirs are before another's."""

    async def read(client: redis.asyncio.Redis) -> list[str]:
        listing, ended = Listing(client), []
        most = under_way = 0
        run = listing._scripts.run

        async def counted(name: str, keys: Any, args: Any) -> Any:
            nonlocal most, under_way
            under_way += 1
            most = max(most, under_way)
            try:
                return await run(name, keys, args)
            finally:
                under_way -= 1

        listing._scripts.run = counted  # type: ignore[method-assign]

        async def page(tenant: str) -> None:
            await listing.page(tenant, JobFilter(), 10, None)
            ended.append(tenant)

        await asyncio.gather(*(page("mine") for _ in range(50)), page("theirs"))
        assert most == 3, "two of mine, one of theirs"
        assert not listing._turns._turns, "nothing is kept of tenants"
        return ended

    ended = with_redis(stack, read)
    assert ended.index("theirs") < 10
    assert len(ended) == 51

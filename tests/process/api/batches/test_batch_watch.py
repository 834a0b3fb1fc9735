"""What the API tells of unfinished batches, by a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from redis.exceptions import RedisError

from api.batches.batch_watch import BatchWatch
from common.batches.records import BatchRecord, BatchStatus, new_batch_id, words_of
from common.redis.connect import connect_async
from common.redis.embedded_server import RedisServer
from common.redis.keys import BATCH_PREFIX, BATCHES
from common.settings import Settings


def record(tenant: str = "acme", **fields: Any) -> BatchRecord:
    given = {"status": BatchStatus.IN_PROGRESS, **fields}
    status = given.pop("status")
    return BatchRecord(
        *(new_batch_id(), tenant, "/v1/jobs", "in", "1h", "", status, 1, 2),
        *("out", "err", 40, 60),
        **given,
    )


class Place:
    """A watch, its clock and what it looks at."""

    def __init__(self, client: Any, max_tenants: int = 20) -> None:
        self.now = 100.0
        self.client = client
        self.watch = BatchWatch(client, max_tenants, lambda: self.now)

    async def put(self, *records: BatchRecord) -> None:
        for one in records:
            words = words_of(one)
            pairs = dict(zip(words[::2], words[1::2], strict=True))
            await self.client.hset(BATCH_PREFIX + one.id, mapping=pairs)
            await self.client.zadd(BATCHES, {one.id: 1})

    def told(self) -> Mapping[str, float]:
        """Each sample by its name and its label's value."""
        return {
            " ".join([one.name, *one.labels.values()]): one.value
            for family in self.watch.families()
            for one in family.samples
        }


def on(server: RedisServer, test: Any, **options: Any) -> None:
    async def run() -> None:
        settings = Settings(redis_url=server.url)  # type: ignore[arg-type]
        async with connect_async(server.url, settings) as client:
            await client.flushdb()
            await test(Place(client, **options))

    asyncio.run(run())


def test_what_waits_is_counted_by_status_and_tenant(embedded_redis: RedisServer) -> None:
    async def test(place: Place) -> None:
        await place.watch.look()
        assert place.told()["lanefleet_batch_unfinished in_progress"] == 0
        assert place.told()["lanefleet_batch_still_seconds"] == 0
        await place.put(
            record(total=100, completed=20, failed=5, ahead_completed=3, ahead_failed=2),
            record(total=10, trouble="the disk is full"),
            record("other-one", total=7, status=BatchStatus.CANCELLING),
            record(status=BatchStatus.VALIDATING),
        )
        await place.watch.look()
        told = place.told()
        assert told["lanefleet_batch_unfinished in_progress"] == 2
        assert told["lanefleet_batch_unfinished validating"] == 1
        assert told["lanefleet_batch_unfinished cancelling"] == 1
        assert told["lanefleet_batch_lines_waiting acme"] == 80
        assert told["lanefleet_batch_lines_waiting other-one"] == 7
        assert told["lanefleet_batch_troubled"] == 1

    on(embedded_redis, test)


def test_a_batch_that_goes_on_does_not_stand_still(embedded_redis: RedisServer) -> None:
    async def test(place: Place) -> None:
        moving, still = record(total=10), record(total=10)
        await place.put(moving, still)
        await place.watch.look()
        place.now += 600
        await place.client.hset(BATCH_PREFIX + moving.id, "ahead_completed", 1)
        await place.watch.look()
        assert place.told()["lanefleet_batch_still_seconds"] == 600
        await place.client.zrem(BATCHES, still.id)
        place.now += 20
        await place.watch.look()
        assert place.told()["lanefleet_batch_still_seconds"] == 20

    on(embedded_redis, test)


def test_series_are_bounded_however_many_tenants_there_are(embedded_redis: RedisServer) -> None:
    async def test(place: Place) -> None:
        await place.put(*(record(f"t{number}", total=number) for number in range(30)))
        await place.watch.look()
        lines = {
            name.rpartition(" ")[2]: value
            for name, value in place.told().items()
            if name.startswith("lanefleet_batch_lines_waiting")
        }
        assert lines == {"t29": 29, "t28": 28, "t27": 27, "other": sum(range(27))}

    on(embedded_redis, test, max_tenants=3)


def test_nothing_is_told_of_a_redis_that_cannot_be_read(embedded_redis: RedisServer) -> None:
    async def test(place: Place) -> None:
        await place.put(record(total=3))
        await place.watch.look()
        await place.client.set(BATCHES, "of another kind")
        with pytest.raises(RedisError):
            await place.watch.look()
        assert place.told() == {}

    on(embedded_redis, test)

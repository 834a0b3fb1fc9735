"""Deliveries in Redis: made once, bounded, and none is forgotten that is still to be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from common.jobs.system_lanes import WEBHOOKS
from common.redis.connect import connect, connect_async
from common.redis.embedded_server import RedisServer
from common.redis.keys import LaneKeys
from common.settings import Settings
from common.webhooks.deliveries import (
    DEAD,
    DELIVERED,
    Attempt,
    Deliveries,
    Delivery,
    delivery_id,
)

SETTINGS = Settings(webhook_list_max=10)


def delivery(number: int, tenant: str = "acme") -> Delivery:
    name = delivery_id(f"{number}-0", "job", "ep_1")
    return Delivery(name, tenant, "ep_1", "", "job.succeeded", "job", b"{}", number)


@pytest.fixture
def run(embedded_redis: RedisServer) -> Callable[[Callable[[Deliveries], Awaitable[None]]], None]:
    """Runs a test over an empty server."""
    with connect(embedded_redis.url, SETTINGS) as client:
        client.flushall()

    def over(test: Callable[[Deliveries], Awaitable[None]]) -> None:
        async def whole() -> None:
            client = connect_async(embedded_redis.url, SETTINGS)
            await test(Deliveries(client, SETTINGS))
            await client.aclose()

        asyncio.run(whole())

    return over


def test_a_delivery_that_is_made_twice_is_one(run: Callable, embedded_redis: RedisServer) -> None:
    async def test(deliveries: Deliveries) -> None:
        one = delivery(1)
        await deliveries.add([one])
        await deliveries.note([replace(one, state=DELIVERED, tries=1)])
        await deliveries.add([one])
        (found,) = await deliveries.read([one.id])
        assert found is not None
        assert (found.state, found.tries) == (DELIVERED, 1)
        assert await deliveries.waiting_by_tenant() == {"~acme": 1}

    run(test)
    with connect(embedded_redis.url, SETTINGS) as client:
        assert sum(client.llen(band) for band in LaneKeys.of(WEBHOOKS).bands) == 1
        assert client.hgetall("lf:tenants:in_flight") == {b"~acme": b"1"}, "not of its own quota"


def test_the_oldest_are_forgotten_but_for_those_that_are_to_be_sent(run: Callable) -> None:
    async def test(deliveries: Deliveries) -> None:
        made = [delivery(number) for number in range(30)]
        await deliveries.add(made)
        assert len(await deliveries.newest("acme", 0, 100)) == 30, "all are to be sent"
        await deliveries.note([replace(one, state=DELIVERED) for one in made[5:]])
        await deliveries.add([delivery(30)])
        kept = await deliveries.newest("acme", 0, 100)
        assert set(kept) >= {one.id for one in made[:5]}
        assert len(kept) == 5 + 10
        gone = [one.id for one in made if one.id not in kept]
        assert await deliveries.read(gone) == [None] * len(gone)

    run(test)


def test_the_dead_are_kept_though_they_are_the_oldest_and_are_bounded_too(run: Callable) -> None:
    async def test(deliveries: Deliveries) -> None:
        dead = [delivery(number) for number in range(12)]
        await deliveries.add(dead)
        for one in dead:
            attempt = Attempt(1_000 + one.created_ms, 500, 1.0, "", "answered 500")
            await deliveries.note([replace(one, state=DEAD, tries=1, log=[attempt])])
        made = [delivery(100 + number) for number in range(30)]
        await deliveries.add(made)
        await deliveries.note([replace(one, state=DELIVERED) for one in made])
        await deliveries.add([delivery(200)])
        listed = await deliveries.newest("acme", 0, 100, dead=True)
        assert listed == [one.id for one in dead[:1:-1]], "ten of twelve, the newest"
        assert await deliveries.read([dead[0].id]) == [None]
        assert set(listed) <= set(await deliveries.newest("acme", 0, 100))
        found = [one for one in await deliveries.look_at(listed) if one]
        assert await deliveries.replay(found) == 10
        assert await deliveries.newest("acme", 0, 100, dead=True) == []

    run(test)


def test_a_receiver_that_asks_for_patience_does_not_outlast_its_delivery(run: Callable) -> None:
    async def test(deliveries: Deliveries) -> None:
        one = delivery(1)
        await deliveries.add([one])
        client = deliveries._client
        keys = (f"lf:delivery:{one.id}", "lf:deliveries:acme")
        for key in keys:
            await client.expire(key, 5)
        await deliveries.note([replace(one, tries=1)])
        for key in keys:
            assert await client.ttl(key) > SETTINGS.webhook_retry_after_seconds

    run(test)


def test_a_replay_that_was_cut_off_is_made_good_by_the_next(run: Callable) -> None:
    async def test(deliveries: Deliveries) -> None:
        one = delivery(1)
        await deliveries.add([one])
        await deliveries.note([replace(one, state=DEAD, tries=3)])
        client = deliveries._client
        await client.flushall()
        await deliveries.add([])
        await deliveries.note([one])  # pending again, and whoever did that died
        assert await client.llen(LaneKeys.of(WEBHOOKS).bands[1]) == 0
        assert await deliveries.replay([one]) == 0
        assert await deliveries.replay([one]) == 0
        bands = [await client.llen(band) for band in LaneKeys.of(WEBHOOKS).bands]
        assert sum(bands) == 1

    run(test)

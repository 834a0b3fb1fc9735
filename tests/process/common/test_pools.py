"""A pool hands out no connection that was idle for too long, and keeps those that were not."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.redis.connect import connect, connect_async
from common.redis.embedded_server import RedisServer
from common.settings import Settings

SETTINGS = Settings(redis_keepalive_seconds=1)


@pytest.mark.parametrize(("idle", "same"), [(0.0, True), (1.2, False)])
def test_a_blocking_pool(embedded_redis: RedisServer, idle: float, same: bool) -> None:
    with connect(embedded_redis.url, SETTINGS) as client:
        first = client.client_id()
        time.sleep(idle)  # nobody uses it
        assert (client.client_id() == first) is same
        assert client.ping()


@pytest.mark.parametrize(("idle", "same"), [(0.0, True), (1.2, False)])
def test_an_asyncio_pool(embedded_redis: RedisServer, idle: float, same: bool) -> None:
    async def use() -> None:
        async with connect_async(embedded_redis.url, SETTINGS) as client:
            first = await client.client_id()
            await asyncio.sleep(idle)
            assert (await client.client_id() == first) is same
            assert await client.ping()

    asyncio.run(use())

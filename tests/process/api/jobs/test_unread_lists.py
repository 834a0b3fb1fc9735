"""Lists that nobody reads, as clients with other transport options fill them."""

from __future__ import annotations

import asyncio

from api.jobs.neighbors import unread_lists
from common.redis.connect import connect, connect_async
from common.redis.embedded_server import RedisServer
from common.settings import Settings


def test_lists_of_other_transport_options_are_found(embedded_redis: RedisServer) -> None:
    with connect(embedded_redis.url, Settings()) as client:
        client.flushall()
        for name in ("echo", "echo\x06\x163", "echo\x06\x164", "echo:3", "other:3"):
            client.lpush(name, "message")
        client.set("echo:5", "something else of somebody else")

    async def look() -> list[str]:
        async with connect_async(embedded_redis.url, Settings()) as client:
            return await unread_lists(client, ["echo"])

    assert asyncio.run(look()) == ["echo\x06\x164", "echo:3"]

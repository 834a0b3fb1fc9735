"""What a courier tells of events that wait: as it was a moment ago, or nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.redis.connect import connect_async
from common.redis.embedded_server import RedisServer
from common.redis.keys import EVENTS
from common.settings import Settings
from common.webhooks.deliveries import Deliveries
from common.webhooks.endpoints import Endpoints
from common.webhooks.vault import Vault
from worker.courier.event_reader import EventReader


def test_figures_that_are_no_longer_measured_are_left_out(
    embedded_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(redis_url=embedded_redis.url)  # type: ignore[arg-type]

    def told(reader: EventReader) -> list[float]:
        return [one.value for family in reader.families() for one in family.samples]

    async def test() -> None:
        async with connect_async(embedded_redis.url, settings) as client:
            await client.flushall()
            deliveries, endpoints = Deliveries(client, settings), Endpoints(client, Vault(None))
            reader = EventReader(client, "me", settings, deliveries, endpoints, lambda: None)
            assert told(reader) == [], "not measured yet"
            await client.xadd(EVENTS, {"id": "a"}, id=f"{int(time.time() * 1000) - 90_000}-0")
            await reader._measure()
            waiting, oldest = told(reader)
            assert waiting == 1
            assert oldest >= 90
            now = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: now + 60)
            assert told(reader) == [], "an old figure would look like a true one"

    asyncio.run(test())

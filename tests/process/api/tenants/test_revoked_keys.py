"""A key that is revoked is revoked for everything at once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from api.http.request_errors import Unauthorized
from api.tenants.api_keys import Keyring
from api.tenants.auth import Authenticator, KeyPolicy
from common.redis.connect import connect, connect_async
from common.redis.embedded_server import RedisServer
from common.settings import Settings


def test_what_is_under_way_ends_with_the_first_request_that_is_refused(
    embedded_redis: RedisServer,
) -> None:
    settings = Settings(key_cache_seconds=0.6, api_keys_required=True)
    ring = Keyring(connect(embedded_redis.url, settings))
    record, text = ring.create("late", "late", frozenset({"submit"}))

    async def main() -> None:
        client = connect_async(embedded_redis.url, settings)
        keys = Authenticator(client, KeyPolicy.of(settings))
        headers = [(b"x-api-key", text.encode())]
        principal = await keys.identify(headers)
        await asyncio.sleep(0.4)
        await keys.recheck(principal)  # remembered for longer than the answer above
        ring.revoke(record.id)
        with contextlib.suppress(Unauthorized):
            while True:
                await keys.identify(headers)
                await asyncio.sleep(0.01)
        with pytest.raises(Unauthorized):
            await keys.recheck(principal)
        await client.aclose()

    asyncio.run(main())

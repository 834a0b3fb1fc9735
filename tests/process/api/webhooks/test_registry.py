"""A tenant's endpoints while others change them, and when the operator's key was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from api.webhooks.registry import WebhookRegistry
from api.webhooks.targets import WebhookTargets
from common.errors import InvalidInput
from common.redis.connect import connect, connect_async
from common.redis.embedded_server import RedisServer
from common.redis.keys import WEBHOOK_TENANTS
from common.settings import Settings
from common.webhooks.endpoints import Endpoint, Endpoints
from common.webhooks.vault import SecretUnreadable, Vault

URL = "https://example.com/hook"
KEY, OTHER_KEY = bytes(32), bytes(31) + b"x"


@pytest.fixture
def run(
    embedded_redis: RedisServer,
) -> Callable[[Callable[[Any], Coroutine[Any, Any, None]]], None]:
    """Runs a test over an empty server."""
    with connect(embedded_redis.url, Settings()) as client:
        client.flushall()

    def over(test: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            async with connect_async(embedded_redis.url, Settings()) as client:
                await test(client)

        asyncio.run(whole())

    return over


def registry(client: Any, key: bytes | None = None, **settings: Any) -> WebhookRegistry:
    made = Settings(**settings)
    found = WebhookRegistry(client, made, WebhookTargets(client, made))
    found._endpoints = Endpoints(client, Vault(key))
    return found


def test_registered_at_once_they_are_all_told_and_no_more_than_the_bound(run: Any) -> None:
    async def test(client: Any) -> None:
        webhooks = registry(client, webhook_max_endpoints=10)

        async def create() -> str:
            made, _ = await webhooks.create("acme", URL, None, "", "v1", None, False)
            return made.id

        made = await asyncio.gather(*(create() for _ in range(25)), return_exceptions=True)
        ids = {one for one in made if isinstance(one, str)}
        assert len(ids) == 10
        assert all(isinstance(one, InvalidInput) for one in made if not isinstance(one, str))
        first, *others = sorted(ids)
        await asyncio.gather(*(webhooks.delete("acme", one) for one in others))
        assert await client.hget(WEBHOOK_TENANTS, "acme") == first.encode()
        await asyncio.gather(create(), webhooks.delete("acme", first), create())
        told = (await client.hget(WEBHOOK_TENANTS, "acme")).decode().split(",")
        assert sorted(told) == sorted(one.id for one in await webhooks.endpoints("acme"))

    run(test)


def test_a_secret_whose_key_was_lost_is_listed_and_rotated(run: Any) -> None:
    async def test(client: Any) -> None:
        before = registry(client, KEY)
        made, _ = await before.create("acme", URL, None, "", "v1", None, False)
        webhooks = registry(client, OTHER_KEY)
        (found,) = await webhooks.endpoints("acme")
        assert webhooks.secrets("acme", found) == []
        with pytest.raises(SecretUnreadable):
            webhooks._endpoints.secrets_of("acme", found, 0)
        secret = await webhooks.rotate("acme", made.id, None)
        (found,) = await webhooks.endpoints("acme")
        assert webhooks.secrets("acme", found) == [secret], "the lost one signs nothing"

    run(test)


def test_what_a_newer_version_keeps_besides_is_passed_by() -> None:
    text = Endpoint("ep_1", URL, ("job.dead",)).text()
    assert Endpoint.read(text[:-1] + b',"colour":1}') == Endpoint("ep_1", URL, ("job.dead",))

"""Says who is told of a job's end, without a round trip: from what was read a second ago.

A job without a webhook, of a tenant without endpoints, costs one look-up in a dictionary.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from common.errors import InvalidInput, UrlRefused, WebhookRefused, WebhooksFull
from common.jobs.system_lanes import system_tenant
from common.net.addresses import AddressRules, parse_target
from common.net.outbound import NOT_FROM_HERE, is_address
from common.redis.ending import end_tasks
from common.redis.keys import EVENTS, WEBHOOK_TENANTS
from common.settings import Settings
from common.webhooks.deliveries import waiting_in_lane
from common.webhooks.events import EVERY_ENDPOINT

_INTERVAL_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_ENDPOINT_ID = re.compile(r"ep_[0-9a-f]{24}")


class WebhookTargets:
    """The tenants' endpoints by id, and whether the outbox has room."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._client = client
        self._max_waiting = settings.webhook_max_waiting
        self._rules = AddressRules(settings.webhook_ports, settings.webhook_allow)
        self._endpoints: dict[str, frozenset[str]] = {}
        self._waiting: Mapping[str, int] = {}
        self._most_of_one: int | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read, and go on in the background."""
        await self._look()
        self._task = asyncio.create_task(self._run(), name="webhook-targets")

    async def stop(self) -> None:
        """End."""
        await end_tasks(self._task)

    def target(self, webhook: str | None, tenant: str) -> str:
        """Who is told of a job of this tenant, as Job.webhook has it.

        Raises InvalidInput or WebhookRefused where the job's own webhook cannot be used, and
        WebhooksFull.
        """
        if webhook is None:
            if tenant not in self._endpoints:
                return ""
            webhook = EVERY_ENDPOINT
        elif "://" in webhook:
            check_url(webhook, self._rules, "webhook")
        elif not _ENDPOINT_ID.fullmatch(webhook):
            raise InvalidInput("`webhook`: send an http(s) URL, or the id of an endpoint (ep_...)")
        elif webhook not in self._endpoints.get(tenant, ()):
            raise InvalidInput("`webhook`: no such endpoint; GET /v1/webhooks lists yours")
        most = self._most_of_one
        if most is not None and self._waiting.get(system_tenant(tenant), 0) >= most:
            raise WebhooksFull(
                f"{self._max_waiting} webhooks wait to be delivered; send the job without a "
                "webhook, or later",
                _RETRY_SECONDS,
            )
        return webhook

    async def learn(self, webhook: str | None, tenant: str) -> None:
        """Read anew where the job names an endpoint that was not known a second ago."""
        if webhook and webhook not in self._endpoints.get(tenant, ()) and "://" not in webhook:
            await self._look()

    def check(self, url: str) -> None:
        """Raise WebhookRefused for an endpoint's URL that may not be called."""
        check_url(url, self._rules, "url")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            found: Any = await self._client.hgetall(WEBHOOK_TENANTS)
            events = int(await self._client.xlen(EVENTS))
            waiting = await waiting_in_lane(self._client)
        except (RedisError, OSError, TimeoutError):
            return  # others tell of it
        self._waiting, self._most_of_one = waiting, self._share(events, waiting)
        self._endpoints = {
            "" if name == b"-" else name.decode(): frozenset(ids.decode().split(","))
            for name, ids in found.items()
        }

    def _share(self, events: int, waiting: Mapping[str, int]) -> int | None:
        """From how many on a tenant's jobs are refused a webhook; None refuses nobody.

        An equal part of the bound, so that a tenant whose receiver is away fills its own part and
        refuses no other. Whose the events are is not known before a courier has read them.
        """
        if events >= self._max_waiting:
            return 0
        if events + sum(waiting.values()) < self._max_waiting:
            return None
        return max(1, self._max_waiting // max(1, len(waiting)))


def check_url(url: str, rules: AddressRules, field: str) -> None:
    """Check a URL's form, its port, and its address where it is literal; raises WebhookRefused.

    What a name leads to is checked when it is called.
    """
    try:
        target = parse_target(url)
        if is_address(target.host):
            callable_ = rules.permit(target.host, target.port)
        else:  # a network that the operator opened may be called at any port
            callable_ = target.port in rules.ports or bool(rules.allowed)
        if not callable_:
            raise UrlRefused(NOT_FROM_HERE)
    except UrlRefused as exc:
        raise WebhookRefused(f"`{field}`: {exc}") from None

"""A tenant's endpoints and deliveries: registered, changed, rotated; listed, replayed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import redis.asyncio
import structlog

from api.webhooks.targets import WebhookTargets
from common.errors import InvalidInput, WebhookRefused
from common.net.addresses import parse_target
from common.net.loopback import is_loopback
from common.net.outbound import is_address
from common.redis.keys import EVENTS
from common.settings import Settings
from common.webhooks.deliveries import DEAD, Deliveries, Delivery
from common.webhooks.endpoints import (
    DEFAULT,
    Endpoint,
    Endpoints,
    new_endpoint_id,
    rotated,
)
from common.webhooks.events import EVENTS as EVENT_TYPES
from common.webhooks.events import PING, Event, body_of, entry_of
from common.webhooks.signing import Scheme, check_secret, new_secret, scheme_of
from common.webhooks.vault import SecretUnreadable, Vault

log = structlog.get_logger(__name__)

_PAGE = 500
BY_USER = "by request"


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries; a field that is None asks nothing."""

    state: Literal["pending", "delivered", "dead"] | None = None
    endpoint: str | None = None
    type: str | None = None
    subject: str | None = None

    def matches(self, one: Delivery) -> bool:
        """Whether this is one of them."""
        asked = (
            (self.state, one.state),
            (self.endpoint, one.endpoint),
            (self.type, one.type),
            (self.subject, one.subject),
        )
        return all(wanted is None or wanted == found for wanted, found in asked)


class WebhookRegistry:
    """What the routes of `/v1/webhooks` do."""

    def __init__(
        self, client: redis.asyncio.Redis, settings: Settings, targets: WebhookTargets
    ) -> None:
        self._client = client
        self._settings = settings
        self._targets = targets
        self._endpoints = Endpoints(client, Vault(settings.webhook_key_bytes))
        self._deliveries = Deliveries(client, settings)

    # Endpoints.

    async def endpoints(self, tenant: str) -> list[Endpoint]:
        """The tenant's, oldest first."""
        found = await self._endpoints.all_of(tenant)
        found.pop(DEFAULT, None)
        return sorted(found.values(), key=lambda one: (one.created_ms, one.id))

    async def endpoint(self, tenant: str, endpoint_id: str) -> Endpoint | None:
        """One of them."""
        return None if endpoint_id == DEFAULT else await self._endpoints.get(tenant, endpoint_id)

    async def create(
        self,
        tenant: str,
        url: str,
        events: Sequence[str] | None,
        description: str,
        scheme: Scheme,
        secret: str | None,
        local: bool,
    ) -> tuple[Endpoint, str]:
        """Register one; returns it with its secret.

        Raises InvalidInput or WebhookRefused.
        """
        self._check_url(url, local)
        check_events(events)
        shown = new_secret(scheme) if secret is None else check_secret(secret)
        endpoint_id = new_endpoint_id()
        endpoint = Endpoint(
            endpoint_id,
            url,
            None if events is None else tuple(events),
            description,
            _now_ms(),
            local=local,
            secrets=((self._endpoints.seal(tenant, endpoint_id, shown), None),),
        )
        most = self._settings.webhook_max_endpoints
        if not await self._endpoints.put(tenant, endpoint, most):
            raise InvalidInput(
                f"this tenant has {most} endpoints, the most that are taken; delete one first"
            )
        return endpoint, shown

    async def update(
        self,
        tenant: str,
        endpoint: Endpoint,
        *,
        url: str | None,
        events: Sequence[str] | Literal["unchanged"] | None,
        description: str | None,
        enabled: bool | None,
    ) -> Endpoint | None:
        """Change what is given; raises InvalidInput or WebhookRefused. None where it is gone."""
        if url is not None:
            self._check_url(url, endpoint.local)
        if events != "unchanged":
            check_events(events)

        def change(one: Endpoint) -> Endpoint:
            if url is not None:
                one = replace(one, url=url)
            if events != "unchanged":
                one = replace(one, events=None if events is None else tuple(events))
            if description is not None:
                one = replace(one, description=description)
            if enabled is not None:
                one = replace(one, disabled="" if enabled else one.disabled or BY_USER)
            return one

        return await self._endpoints.change(tenant, endpoint.id, change)

    async def delete(self, tenant: str, endpoint_id: str) -> bool:
        """Remove one; what is on its way to it is not sent. Whether it was there."""
        return await self._endpoints.remove(tenant, endpoint_id)

    async def rotate(self, tenant: str, endpoint_id: str, secret: str | None) -> str | None:
        """Give one a new secret, of its kind unless one is given; the last one signs beside it
        for a while. Returns it; None where there is no such endpoint.
        """
        given = None if secret is None else check_secret(secret)
        found = await (
            self._endpoints.default_of(tenant)
            if endpoint_id == DEFAULT
            else self._endpoints.get(tenant, endpoint_id)
        )
        if found is None:
            return None
        shown = given or new_secret(self._scheme(tenant, found))
        sealed = self._endpoints.seal(tenant, endpoint_id, shown)
        keep_ms = self._settings.webhook_rotation_seconds * 1000
        changed = await self._endpoints.change(
            tenant, endpoint_id, lambda one: rotated(one, sealed, _now_ms(), keep_ms)
        )
        return None if changed is None else shown

    def secrets(self, tenant: str, endpoint: Endpoint) -> list[str]:
        """The secrets that sign now: of these, only what is public is shown. None where they were
        encrypted with another key: the endpoint is listed all the same, and can be rotated.
        """
        try:
            return self._endpoints.secrets_of(tenant, endpoint, _now_ms())
        except SecretUnreadable as exc:
            log.warning("webhook_secret_unreadable", endpoint=endpoint.id, error=str(exc))
            return []

    def _scheme(self, tenant: str, endpoint: Endpoint) -> Scheme:
        return scheme_of(next(iter(self.secrets(tenant, endpoint)), ""))

    def _check_url(self, url: str, local: bool) -> None:
        if not local:
            self._targets.check(url)
            return
        target = parse_target(url)
        if not (is_loopback(self._settings.host) and is_address(target.host)):
            raise WebhookRefused(
                "`local`: this fleet does not listen on loopback alone, so it sends nothing there; "
                "register a URL that it can reach"
            )
        if not is_loopback(target.host):
            raise WebhookRefused("`url`: with `local` it must name a loopback address")

    async def ping(self, tenant: str, endpoint: Endpoint) -> None:
        """Have a `webhook.ping` sent to it, also while it is disabled; it is tried once."""
        body = body_of(PING, None, {"endpoint": endpoint.id})
        event = Event(PING, tenant, endpoint.id, endpoint.id, body)
        await self._client.xadd(EVENTS, entry_of(event))  # type: ignore[arg-type]

    # Deliveries.

    async def delivery(self, tenant: str, delivery_id: str) -> Delivery | None:
        """One of the tenant's."""
        (found,) = await self._deliveries.look_at([delivery_id])
        return found if found is not None and found.tenant == tenant else None

    async def deliveries(self, tenant: str, wanted: DeliveryFilter, limit: int) -> list[Delivery]:
        """The newest that match, newest first."""
        matching: list[Delivery] = []
        offset, dead = 0, wanted.state == DEAD
        while len(matching) < limit:
            ids = await self._deliveries.newest(tenant, offset, _PAGE, dead=dead)
            found = await self._deliveries.look_at(ids)
            matching += [one for one in found if one is not None and wanted.matches(one)]
            offset += _PAGE
            if len(ids) < _PAGE:
                break
        return matching[:limit]

    async def replay(self, tenant: str, ids: Sequence[str] | None, wanted: DeliveryFilter) -> int:
        """Send these again, or all that match; returns how many."""
        if ids is None:
            found = await self.deliveries(tenant, wanted, self._settings.webhook_list_max)
        else:
            read = await self._deliveries.look_at(ids)
            found = [one for one in read if one is not None and one.tenant == tenant]
        return await self._deliveries.replay(found)


def check_events(events: Sequence[str] | None) -> None:
    """Raise InvalidInput for an event that there is not."""
    for one in events or ():
        if one not in EVENT_TYPES:
            known = ", ".join(EVENT_TYPES)
            raise InvalidInput(f"`events`: there is no event {one[:80]!r}; there are {known}")


def _now_ms() -> int:
    return int(time.time() * 1000)

"""The endpoints that tenants registered, in Redis: one hash a tenant.

Its field `default` has the secrets of URLs that jobs name themselves. A secret is kept with the
time until which it signs: the newest without one, and one more while it is rotated out.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import orjson
import redis.asyncio
from redis.exceptions import WatchError

from common.redis.keys import WEBHOOK_TENANTS, webhooks_key
from common.webhooks.signing import new_secret
from common.webhooks.vault import SecretUnreadable, Vault

DEFAULT = "default"
ID_PREFIX = "ep_"
_SECRETS = 2


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a tenant is told of events. Times are Unix milliseconds."""

    id: str
    url: str = ""
    events: tuple[str, ...] | None = None
    """Which ones; None is all, and none is only those of jobs that name the endpoint."""
    description: str = ""
    created_ms: int = 0
    disabled: str = ""
    """Why nothing is sent to it; empty while it is enabled."""
    local: bool = False
    """Whether it is a listener on this machine (`lanefleet webhooks listen`)."""
    secrets: tuple[tuple[str, int | None], ...] = field(default=(), repr=False)
    """As the vault keeps them, newest first, each with when it ends to sign."""

    def wants(self, event: str) -> bool:
        """Whether it is told of this event of any job."""
        return not self.disabled and (self.events is None or event in self.events)

    def signing(self, now_ms: int) -> list[str]:
        """The kept secrets that sign now."""
        return [kept for kept, until in self.secrets if until is None or until > now_ms]

    @classmethod
    def read(cls, text: bytes) -> Endpoint:
        """Parse one as it is kept; what other versions keep besides is left out."""
        kept = orjson.loads(text)
        found = {one.name: kept[one.name] for one in fields(cls) if one.name in kept}
        if found["events"] is not None:
            found["events"] = tuple(found["events"])
        found["secrets"] = tuple((sealed, until) for sealed, until in found["secrets"])
        return cls(**found)

    def text(self) -> bytes:
        """As it is kept."""
        return orjson.dumps(asdict(self))


def rotated(endpoint: Endpoint, sealed: str, now_ms: int, keep_ms: int) -> Endpoint:
    """With a new secret, and the last one for as long as it is rotated out."""
    old = [(kept, now_ms + keep_ms) for kept in endpoint.signing(now_ms)[:1] if keep_ms > 0]
    return replace(endpoint, secrets=((sealed, None), *old)[:_SECRETS])


def new_endpoint_id() -> str:
    """A random id."""
    return ID_PREFIX + secrets.token_hex(12)


class Endpoints:
    """Reads and writes them."""

    def __init__(self, client: redis.asyncio.Redis, vault: Vault) -> None:
        self._client = client
        self._vault = vault

    async def all_of(self, tenant: str) -> dict[str, Endpoint]:
        """The tenant's endpoints by id, the default one among them."""
        found: Any = await self._client.hgetall(webhooks_key(tenant))
        return {name.decode(): Endpoint.read(text) for name, text in found.items()}

    async def get(self, tenant: str, endpoint_id: str) -> Endpoint | None:
        """One of them."""
        found: Any = await self._client.hget(webhooks_key(tenant), endpoint_id)
        return None if found is None else Endpoint.read(found)

    async def put(self, tenant: str, endpoint: Endpoint, most: int) -> bool:
        """Write a new one, unless the tenant has as many; whether it was written."""

        def write(pipe: Any, ids: set[str]) -> bool:
            if len(ids) >= most:
                return False
            pipe.hset(webhooks_key(tenant), endpoint.id, endpoint.text())
            ids.add(endpoint.id)
            return True

        return await self._change_ids(tenant, write)

    async def remove(self, tenant: str, endpoint_id: str) -> bool:
        """Remove one; whether it was there."""

        def write(pipe: Any, ids: set[str]) -> bool:
            if endpoint_id not in ids:
                return False
            pipe.hdel(webhooks_key(tenant), endpoint_id)
            ids.remove(endpoint_id)
            return True

        return await self._change_ids(tenant, write)

    async def _change_ids(self, tenant: str, write: Callable[[Any, set[str]], bool]) -> bool:
        """Change which endpoints there are, in one step with the list of their ids that every API
        process reads: a change beside it, or a death in between, would leave one that no job tells.
        """
        async with self._client.pipeline(transaction=True) as pipe:
            while True:
                try:
                    await pipe.watch(webhooks_key(tenant))
                    names: Any = await pipe.hkeys(webhooks_key(tenant))
                    ids = {one.decode() for one in names} - {DEFAULT}
                    pipe.multi()
                    if not write(pipe, ids):
                        return False
                    if ids:
                        pipe.hset(WEBHOOK_TENANTS, tenant or "-", ",".join(sorted(ids)))
                    else:
                        pipe.hdel(WEBHOOK_TENANTS, tenant or "-")
                    await pipe.execute()
                    return True
                except WatchError:
                    continue

    async def change(
        self, tenant: str, endpoint_id: str, how: Callable[[Endpoint], Endpoint]
    ) -> Endpoint | None:
        """Change one, as nobody else changes it meanwhile; None where it is not there."""
        key = webhooks_key(tenant)
        async with self._client.pipeline(transaction=True) as pipe:
            while True:
                try:
                    await pipe.watch(key)
                    text: Any = await pipe.hget(key, endpoint_id)
                    if text is None:
                        return None
                    changed = how(Endpoint.read(text))
                    pipe.multi()
                    pipe.hset(key, endpoint_id, changed.text())
                    await pipe.execute()
                    return changed
                except WatchError:
                    continue

    async def default_of(self, tenant: str) -> Endpoint:
        """The tenant's default secrets, made where there are none."""
        found = await self.get(tenant, DEFAULT)
        if found is None:
            sealed = self.seal(tenant, DEFAULT, new_secret("v1"))
            made = Endpoint(DEFAULT, secrets=((sealed, None),))
            await self._client.hsetnx(webhooks_key(tenant), DEFAULT, made.text())
            found = await self.get(tenant, DEFAULT)
        return found or Endpoint(DEFAULT)

    def seal(self, tenant: str, endpoint_id: str, secret: str) -> str:
        """A secret as it is kept for this endpoint."""
        return self._vault.seal(secret, f"{tenant}/{endpoint_id}")

    def secrets_of(self, tenant: str, endpoint: Endpoint, now_ms: int) -> list[str]:
        """The secrets that sign now, newest first; raises SecretUnreadable for the newest. One
        that is rotated out since its key was lost is left out.
        """
        owner = f"{tenant}/{endpoint.id}"
        newest, *older = endpoint.signing(now_ms) or [""]
        opened = [self._vault.open(newest, owner)] if newest else []
        for kept in older:
            with suppress(SecretUnreadable):
                opened.append(self._vault.open(kept, owner))
        return opened


def told_of(endpoints: Iterable[Endpoint], event: str) -> list[Endpoint]:
    """Those that ask for this event."""
    return [one for one in endpoints if one.id != DEFAULT and one.wants(event)]

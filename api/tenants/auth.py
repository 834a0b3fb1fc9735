"""Who asks: the principal behind a request, and what it may do.

Where no key is asked for, everybody who reaches us is `LOCAL`: of no tenant
and allowed everything. That is so while no API key exists and we listen on
loopback only, or where the operator said so for a private network.

What is known of a key is believed for a few seconds, so that a request costs
no round trip to Redis; a revoked key dies within that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

import redis
import redis.asyncio
from redis.exceptions import RedisError

from api.http.request_errors import Forbidden, Unauthorized
from api.tenants.api_keys import (
    PREFIX,
    SCOPES,
    limits_from,
    limits_of,
    opens,
    read_record,
    split_key,
)
from common.errors import ConfigurationError, Refused
from common.jobs.quota import UNLIMITED, Limits
from common.net.loopback import is_loopback
from common.redis.keys import API_KEYS, API_KEYS_USED, TENANT_LIMITS
from common.redis.trouble import refusal_of
from common.settings import Settings

__all__ = (
    "LOCAL",
    "SCOPES",
    "Authenticator",
    "KeyPolicy",
    "Principal",
    "check_exposure",
    "require",
)

_KEYS_REMEMBERED = 10_000
_KNOWN_WITHOUT_REDIS_SECONDS = 300.0
_LOOK_SECONDS = 1.0
_LOOK_UPS = 4
"""Keys looked up at a time: many that come at once must not take all connections."""
_PREFIX = PREFIX.encode()


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request is from."""

    tenant: str
    """Whose jobs these are; empty for LOCAL, and for jobs that a Celery client sent."""
    scopes: frozenset[str]
    limits: Limits = UNLIMITED
    key_id: str = ""
    """Public part of the API key; empty for LOCAL."""

    def allows(self, scope: str) -> bool:
        """Whether this scope was granted; admin includes every other."""
        return scope in self.scopes or "admin" in self.scopes

    def owns(self, tenant: str) -> bool:
        """Whether jobs of this tenant exist for it at all; to others they are unknown."""
        return tenant == self.tenant or "admin" in self.scopes


LOCAL = Principal("", SCOPES)


@dataclass(frozen=True, slots=True)
class _Known:
    """What was last heard of one key; principal is None for one that opens nothing."""

    principal: Principal | None
    until: float
    """Steady clock."""
    expires_at: float | None = None
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """What the settings say of API keys."""

    required: bool | None
    """None asks for one once there are keys, or where others than this machine reach us."""
    loopback: bool
    """Whether only this machine reaches us."""
    cache_seconds: float
    """For how long what is known of a key is believed."""
    limits: Limits
    """Those of tenants that have none of their own."""

    @classmethod
    def of(cls, settings: Settings) -> KeyPolicy:
        """That of a process."""
        return cls(
            settings.api_keys_required,
            is_loopback(settings.host),
            settings.key_cache_seconds,
            limits_of(settings),
        )


class Authenticator:
    """Turns keys into principals; one per process."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        policy: KeyPolicy,
        reachable: Callable[[], bool] = lambda: True,
        trouble: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        """trouble is why it is not reachable."""
        self._client = client
        self._trouble = trouble
        self._reachable = reachable
        self._policy = policy
        self._known: dict[bytes, _Known] = {}
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}
        self._look_ups = asyncio.Semaphore(_LOOK_UPS)
        self._looking: asyncio.Task[None] | None = None
        self._open = policy.required is False
        self._open_until = float("inf") if policy.required is not None else 0.0
        self._may_open = policy.required is None and policy.loopback

    async def start(self) -> None:
        """Look whether a key is asked for, so that it is known should Redis be away later."""
        if self._open_until == 0:
            with contextlib.suppress(Refused):
                await self._look_whether_open()

    async def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """The principal; raises Unauthorized, or RedisError where Redis must be asked."""
        text = _key_in(headers)
        if text is None or not text.startswith(_PREFIX):
            if time.monotonic() >= self._open_until:
                await self._look_whether_open()
            if self._open:
                return LOCAL
            raise _unauthorized(text is not None)
        digest = sha256(text).digest()
        known = self._known.get(digest)
        if known is None or self._outdated(known):
            known = await self._ask(text, digest)
        expired = known.expires_at is not None and known.expires_at <= time.time()
        if known.principal is None or expired:
            raise _unauthorized(True)
        return known.principal

    def _outdated(self, known: _Known) -> bool:
        """Whether to ask again. While Redis is away, who was known stays so for a while: reads
        of kept results need no queue, and nobody should wait for a timeout to get one.
        """
        late = time.monotonic() - known.until
        return late >= (0 if self._reachable() else _KNOWN_WITHOUT_REDIS_SECONDS)

    async def _look_whether_open(self) -> None:
        """Look once for all requests that come meanwhile; each on its own would take every
        connection there is, a thousand of them at once.
        """
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # whoever waits has it

    async def _look(self) -> None:
        """Nobody needs a key while there is none, and only this machine can reach us."""
        looked = self._open_until > 0
        if not self._reachable():
            if not looked:
                raise refusal_of(
                    self._trouble(), "whether API keys are asked for cannot be told yet"
                )
            return  # as open as it was, until Redis can be asked again
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                keys = await cast("Any", self._client.hlen(API_KEYS))
            self._open = self._may_open and not keys
        except (RedisError, TimeoutError) as exc:
            if not looked:
                raise refusal_of(exc, "whether API keys are asked for cannot be told") from exc
            return
        self._open_until = time.monotonic() + self._policy.cache_seconds

    async def _ask(self, text: bytes, digest: bytes) -> _Known:
        """Look the key up; requests that come meanwhile wait for the same answer."""
        task = self._asking.get(digest)
        if task is None:
            if not self._reachable():
                raise refusal_of(self._trouble(), "API keys cannot be looked up at the moment")
            task = self._asking[digest] = asyncio.create_task(self._look_up(text))
            task.add_done_callback(lambda _task: self._asking.pop(digest, None))
        known = await asyncio.shield(task)
        self._known.pop(digest, None)
        self._known[digest] = known
        while len(self._known) > _KEYS_REMEMBERED:
            del self._known[next(iter(self._known))]
        return known

    async def _look_up(self, text: bytes) -> _Known:
        parts = split_key(text)
        if parts is None:
            return _Known(None, time.monotonic() + self._policy.cache_seconds)
        async with self._look_ups:
            return await self._read_key(*parts)

    async def _read_key(self, key_id: str, secret: bytes) -> _Known:
        until = time.monotonic() + self._policy.cache_seconds
        kept = cast("bytes | None", await cast("Any", self._client.hget(API_KEYS, key_id)))
        record = read_record(kept)
        if not opens(record, secret) or record is None or record.dead(time.time()):
            return _Known(None, until)
        pipe = self._client.pipeline(transaction=False)
        pipe.hget(TENANT_LIMITS, record.tenant)
        pipe.hset(API_KEYS_USED, key_id, str(int(time.time())))
        own, _ = await pipe.execute(raise_on_error=False)  # a full server keeps no last use
        limits = limits_from(own if isinstance(own, bytes) else None, self._policy.limits)
        principal = Principal(record.tenant, frozenset(record.scopes), limits, key_id)
        return _Known(principal, until, record.expires_at)


def _unauthorized(sent: bool) -> Unauthorized:
    if sent:
        return Unauthorized("this API key is unknown, expired or revoked", sent=True)
    text = "send an API key, as `Authorization: Bearer lfk_...` or `X-API-Key: lfk_...`"
    return Unauthorized(text, sent=False)


def _key_in(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """What was sent as a key: a bearer token, else X-API-Key."""
    found = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            found = value.strip()
    return found


def require(principal: Principal, scope: str) -> None:
    """Raise Forbidden, which names the scope, unless it was granted."""
    if not principal.allows(scope):
        raise Forbidden(scope)


def check_exposure(client: redis.Redis, settings: Settings) -> None:
    """Raise ConfigurationError where others than this machine would get in without a key."""
    if settings.api_keys_required is not None or is_loopback(settings.host):
        return
    try:
        keys = client.hlen(API_KEYS)
    except RedisError as exc:
        raise ConfigurationError(
            f"whether API keys exist cannot be told ({exc}); LANEFLEET_API_KEYS_REQUIRED=true "
            "starts without looking"
        ) from exc
    if not keys:
        raise ConfigurationError(
            f"no API key exists, and {settings.host} can be reached from elsewhere: make one with "
            "`lanefleet keys create`, or set LANEFLEET_HOST=127.0.0.1, or, on a network where you "
            "trust everybody, LANEFLEET_API_KEYS_REQUIRED=false"
        )

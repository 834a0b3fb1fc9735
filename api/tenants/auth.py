"""Authenticates requests: the principal of each, and its scopes.

Where no key is required, every client is `LOCAL`: without a tenant and with all scopes. That
is the case while no API key exists and the API listens on loopback only, or where the operator
has configured it for a private network.

The record of a key is cached for a few seconds, so that a request costs no round trip to Redis;
a revoked key stops working within that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import redis
import redis.asyncio
import structlog
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
from common.errors import Refused
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
    "require",
)

log = structlog.get_logger(__name__)

_KEYS_REMEMBERED = 10_000
_KNOWN_WITHOUT_REDIS_SECONDS = 300.0
_LOOK_SECONDS = 1.0
_LOOK_UPS = 4
"""Most concurrent lookups of keys: many at once must not take all connections."""
_PREFIX = PREFIX.encode()


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated client of a request."""

    tenant: str
    """The owner of its jobs; empty for LOCAL, and for jobs that a Celery client sent."""
    scopes: frozenset[str]
    limits: Limits = UNLIMITED
    key_id: str = ""
    """Public part of the API key; empty for LOCAL."""

    def allows(self, scope: str) -> bool:
        """Whether this scope is granted; admin includes every other."""
        return scope in self.scopes or "admin" in self.scopes

    def owns(self, tenant: str) -> bool:
        """Whether it can see jobs of this tenant; to other principals they are unknown."""
        return tenant == self.tenant or "admin" in self.scopes


LOCAL = Principal("", SCOPES)


@dataclass(frozen=True, slots=True)
class _Known:
    """The cached lookup of one key; principal is None for an invalid key."""

    principal: Principal | None
    until: float
    """When to look it up again, on the steady clock."""
    expires_at: float | None = None
    """When the key expires, Unix seconds."""


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """The settings for API keys."""

    required: bool | None
    """None requires a key once keys exist, or where other machines can reach the API."""
    loopback: bool
    """Whether only this machine can reach the API."""
    cache_seconds: float
    """How long the lookup of a key is cached."""
    limits: Limits
    """The limits of tenants without limits of their own."""
    mark: Path | None = None
    """The file that says that keys existed, once they did: then one is asked for whatever becomes
    of Redis."""

    @classmethod
    def of(cls, settings: Settings, redis_url: str = "") -> KeyPolicy:
        """The policy of a process with these settings, and this Redis."""
        return cls(
            settings.api_keys_required,
            is_loopback(settings.host),
            settings.key_cache_seconds,
            limits_of(settings),
            settings.state_dir / f"keys-exist-{_place_of(redis_url)}" if redis_url else None,
        )


def _place_of(redis_url: str) -> str:
    """Which Redis it is, without the login."""
    return sha256(redis_url.rpartition("@")[2].encode()).hexdigest()[:16]


class Authenticator:
    """Maps keys to principals; one per process. `outcomes` counts what became of keys."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        policy: KeyPolicy,
        reachable: Callable[[], bool] = lambda: True,
        trouble: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        """trouble is why it is not reachable."""
        self._client, self._policy = client, policy
        self._trouble, self._reachable = trouble, reachable
        self._known: dict[bytes, _Known] = {}
        self._rechecked: dict[str, tuple[bool, float]] = {}
        """By the key's id, whether it was valid, and when to look again."""
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}
        self._look_ups = asyncio.Semaphore(_LOOK_UPS)
        self._looking: asyncio.Task[None] | None = None
        self._open = policy.required is False
        self._open_until = float("inf") if policy.required is not None else 0.0
        self._marked = policy.mark is not None and policy.mark.exists()
        self._may_open = policy.required is None and policy.loopback and not self._marked
        self.outcomes: Counter[str] = Counter()

    async def start(self) -> None:
        """Read whether keys are required, so that it is known if Redis is unavailable later."""
        if self._marked:
            log.info("keys_are_asked_for", because="keys existed", mark=str(self._policy.mark))
        if self._open_until == 0:
            with contextlib.suppress(Refused):
                await self._look_whether_open()

    async def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """The principal; raises Unauthorized, or RedisError where a lookup is needed and fails."""
        text = _key_in(headers)
        if text is None or not text.startswith(_PREFIX):
            if time.monotonic() >= self._open_until:
                await self._look_whether_open()
            if self._open:
                self.outcomes["none"] += 1
                return LOCAL
            self.outcomes["invalid" if text else "missing"] += 1
            raise _unauthorized(text is not None)
        digest = sha256(text).digest()
        known = self._known.get(digest)
        if known is None or self._outdated(known):
            known = await self._ask(text, digest)
        expired = known.expires_at is not None and known.expires_at <= time.time()
        if known.principal is None or expired:
            self.outcomes["invalid"] += 1
            raise _unauthorized(True)
        self.outcomes["accepted"] += 1
        return known.principal

    def knows(self, principal: Principal) -> bool:
        """Whether the principal was found valid so lately that `recheck` would not look again."""
        if not principal.key_id:
            return self._open and time.monotonic() < self._open_until
        valid, until = self._rechecked.get(principal.key_id, (True, 0.0))
        return valid and time.monotonic() < until

    async def recheck(self, principal: Principal) -> None:
        """Return where this principal may go on, after waiting; raises Unauthorized once its key is
        revoked or has expired, or keys are required of everybody by now.
        """
        with contextlib.suppress(RedisError, Refused):  # it goes on where that cannot be told
            if not principal.key_id:
                if time.monotonic() >= self._open_until:
                    await self._look_whether_open()
                if not self._open:
                    raise _unauthorized(False)
            elif not await self._is_valid(principal.key_id):
                raise _unauthorized(True)

    async def _is_valid(self, key_id: str) -> bool:
        valid, until = self._rechecked.get(key_id, (True, 0.0))
        if time.monotonic() < until or not self._reachable():
            return valid
        async with self._look_ups:
            kept: Any = await cast("Any", self._client.hget(API_KEYS, key_id))
        record = read_record(kept)
        valid = record is not None and record.dead(time.time()) is None
        while len(self._rechecked) >= _KEYS_REMEMBERED:
            del self._rechecked[next(iter(self._rechecked))]
        self._rechecked[key_id] = (valid, time.monotonic() + self._policy.cache_seconds)
        return valid

    def _outdated(self, known: _Known) -> bool:
        """Whether to look the key up again. While Redis is unavailable, cached lookups stay valid
        for a while: reads of cached results need no queue, and should not wait for a timeout.
        """
        late = time.monotonic() - known.until
        return late >= (0 if self._reachable() else _KNOWN_WITHOUT_REDIS_SECONDS)

    async def _look_whether_open(self) -> None:
        """Read it once for all requests that arrive meanwhile: separately, a thousand at once would
        take every connection.
        """
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # the waiting requests get the exception

    async def _look(self) -> None:
        """Read whether keys exist: none is required while there are none and only this machine can
        reach the API.
        """
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
            if keys:
                self._stay_closed()
            self._open = self._may_open and not keys
        except (RedisError, TimeoutError) as exc:
            if not looked:
                raise refusal_of(exc, "whether API keys are asked for cannot be told") from exc
            return
        self._open_until = time.monotonic() + self._policy.cache_seconds

    def _stay_closed(self) -> None:
        """Note that keys exist: a flushed Redis must not open the API to everybody."""
        if not self._may_open:
            return
        self._may_open = False
        if self._policy.mark is not None:
            try:
                self._policy.mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._policy.mark.touch(mode=0o600)
            except OSError as exc:
                log.warning("mark_not_written", mark=str(self._policy.mark), error=str(exc))

    async def _ask(self, text: bytes, digest: bytes) -> _Known:
        """Look the key up; requests with the same key that arrive meanwhile share the lookup."""
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
        opened = opens(record, secret)
        dead = record is None or record.dead(time.time()) is not None
        if dead and key_id in self._rechecked:  # requests under way learn of it with this one
            self._rechecked[key_id] = (False, until)
        if record is None or dead or not opened:
            return _Known(None, until)
        pipe = self._client.pipeline(transaction=False)
        pipe.hget(TENANT_LIMITS, record.tenant)
        pipe.hset(API_KEYS_USED, key_id, str(int(time.time())))
        own, _ = await pipe.execute(raise_on_error=False)  # a full server refuses this hset
        limits = limits_from(own if isinstance(own, bytes) else None, self._policy.limits)
        principal = Principal(record.tenant, frozenset(record.scopes), limits, key_id)
        return _Known(principal, until, record.expires_at)


def _unauthorized(sent: bool) -> Unauthorized:
    if sent:
        return Unauthorized("this API key is unknown, expired or revoked", sent=True)
    text = "send an API key, as `Authorization: Bearer lfk_...` or `X-API-Key: lfk_...`"
    return Unauthorized(text, sent=False)


def _key_in(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key in the headers: a bearer token, else X-API-Key."""
    found = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            found = value.strip()
    return found


def require(principal: Principal, scope: str) -> None:
    """Raise Forbidden, which names the scope, unless it is granted."""
    if not principal.allows(scope):
        raise Forbidden(scope)

"""API keys: their format, their storage and their records.

A key is `lfk_`, a public id and a secret of 256 random bits, in hex: one word that a double
click selects and that a search for `lfk_` finds in a leak. The SHA-256 of the secret is stored.
A slow hash protects passwords because they can be guessed; 256 random bits cannot be, whatever
the cost of the hash, and every request would pay for a slow one.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from hmac import compare_digest

import orjson
from redis import Redis

from common.errors import ConfigurationError
from common.jobs.quota import Limits
from common.redis.keys import API_KEYS, API_KEYS_USED, TENANT_LIMITS
from common.settings import TenantSettings

SCOPES = frozenset({"submit", "read", "metrics", "admin"})
"""submit jobs; read one's own and the models; scrape /metrics; operate the fleet."""
PREFIX = "lfk_"
_KEY = re.compile(rb"lfk_([0-9a-f]{12})_([0-9a-f]{64})")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_KEYS = 10_000
_NOBODY = "0" * 64
"""The hash to compare with for an unknown key, so that the comparison takes as long."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The record of a key. Times are Unix seconds."""

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    secret_sha256: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def dead(self, now: float) -> str | None:
        """Why the key is not valid now; None where it is."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return None

    def matches(self, secret: bytes) -> bool:
        """Whether this is the key's secret, compared in constant time."""
        return compare_digest(self.secret_sha256, sha256(secret).hexdigest())

    def dump(self) -> bytes:
        """The stored form."""
        return orjson.dumps(asdict(self))


def read_record(kept: bytes | None) -> KeyRecord | None:
    """Parse the stored form of a record."""
    if kept is None:
        return None
    fields = orjson.loads(kept)
    return KeyRecord(**{**fields, "scopes": tuple(fields["scopes"])})


def split_key(text: bytes) -> tuple[str, bytes] | None:
    """Public id and secret of a key; None for text of another format."""
    found = _KEY.fullmatch(text)
    return (found[1].decode(), found[2]) if found else None


def opens(record: KeyRecord | None, secret: bytes) -> bool:
    """Whether the secret is this key's; takes as long for an unknown key as for a known one."""
    if record is None:
        compare_digest(_NOBODY, sha256(secret).hexdigest())
        return False
    return record.matches(secret)


def limits_of(settings: TenantSettings) -> Limits:
    """The limits of tenants without limits of their own."""
    return Limits(
        settings.tenant_jobs_per_second, settings.tenant_burst_jobs, settings.tenant_max_in_flight
    )


def limits_from(kept: bytes | None, defaults: Limits) -> Limits:
    """A tenant's limits: its own where set, else the defaults."""
    return replace(defaults, **(orjson.loads(kept) if kept else {}))


class Keyring:
    """The keys in Redis, for operators. Raises ConfigurationError with what to change."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def create(
        self,
        name: str,
        tenant: str,
        scopes: frozenset[str],
        *,
        expires_at: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """Create a key; returns its record and its text, which cannot be recovered later."""
        _check(name, tenant, scopes)
        if int(self._client.hlen(API_KEYS)) >= _MAX_KEYS:
            raise ConfigurationError(f"{_MAX_KEYS} keys exist; `lanefleet keys forget` some")
        key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
        record = KeyRecord(
            key_id,
            name,
            tenant,
            tuple(sorted(scopes)),
            sha256(secret.encode()).hexdigest(),
            time.time(),
            expires_at,
        )
        self._client.hset(API_KEYS, key_id, record.dump())
        return record, f"{PREFIX}{key_id}_{secret}"

    def all(self) -> list[tuple[KeyRecord, float | None]]:
        """Every key, oldest first, and when it was last used."""
        kept: Mapping[bytes, bytes] = self._client.hgetall(API_KEYS)  # type: ignore[assignment]
        used: Mapping[bytes, bytes] = self._client.hgetall(API_KEYS_USED)  # type: ignore[assignment]
        records = [record for one in kept.values() if (record := read_record(one))]
        records.sort(key=lambda record: record.created_at)
        last = {key_id.decode(): float(at) for key_id, at in used.items()}
        return [(record, last.get(record.id)) for record in records]

    def revoke(self, key_id: str) -> KeyRecord:
        """Revoke a key; it stays on the list."""
        record = self._get(key_id)
        return self._keep(replace(record, revoked_at=record.revoked_at or time.time()))

    def rotate(self, key_id: str, grace_seconds: float) -> tuple[KeyRecord, str]:
        """Create a second key with the same rights; the first expires after the grace period."""
        old = self._get(key_id)
        now = time.time()
        if (why := old.dead(now)) is not None:
            raise ConfigurationError(f"key {key_id} is {why}; create a new one")
        new, text = self.create(
            old.name, old.tenant, frozenset(old.scopes), expires_at=old.expires_at
        )
        until = now + grace_seconds
        self._keep(replace(old, expires_at=min(until, old.expires_at or until)))
        return new, text

    def forget(self, key_id: str) -> None:
        """Delete a key that is no longer valid from the list."""
        if self._get(key_id).dead(time.time()) is None:
            raise ConfigurationError(f"key {key_id} is valid; revoke it first")
        self._client.hdel(API_KEYS, key_id)
        self._client.hdel(API_KEYS_USED, key_id)

    def set_limits(self, tenant: str, limits: Mapping[str, float]) -> None:
        """Set a tenant's own limits; an empty mapping restores the defaults."""
        if not _TENANT.fullmatch(tenant):
            raise ConfigurationError(_bad_tenant(tenant))
        if limits:
            self._client.hset(TENANT_LIMITS, tenant, orjson.dumps(dict(limits)))
        else:
            self._client.hdel(TENANT_LIMITS, tenant)

    def limits(self, tenant: str, settings: TenantSettings) -> Limits:
        """The limits of this tenant."""
        kept: bytes | None = self._client.hget(TENANT_LIMITS, tenant)  # type: ignore[assignment]
        return limits_from(kept, limits_of(settings))

    def _get(self, key_id: str) -> KeyRecord:
        kept: bytes | None = self._client.hget(API_KEYS, key_id)  # type: ignore[assignment]
        record = read_record(kept)
        if record is None:
            raise ConfigurationError(f"there is no key {key_id!r}; see `lanefleet keys list`")
        return record

    def _keep(self, record: KeyRecord) -> KeyRecord:
        self._client.hset(API_KEYS, record.id, record.dump())
        return record


def _check(name: str, tenant: str, scopes: frozenset[str]) -> None:
    if not name.strip() or len(name) > 100:
        raise ConfigurationError("give the key a name of 1 to 100 characters, such as who has it")
    if not _TENANT.fullmatch(tenant):
        raise ConfigurationError(_bad_tenant(tenant))
    if not scopes or not scopes <= SCOPES:
        raise ConfigurationError(f"scopes are {', '.join(sorted(SCOPES))}; name at least one")


def _bad_tenant(tenant: str) -> str:
    return (
        f"{tenant!r} is no tenant's name: up to 64 letters, digits, `_`, `.` and `-`, "
        "a letter or digit first"
    )

"""Deliveries: what is sent to whom, how each attempt went, and what waits to be sent again.

Each is one hash, for as long as it may be retried and looked at. The job of `~webhook` that
carries it has its id and nothing else.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import redis.asyncio

from common.jobs.enqueue import enqueue_args
from common.jobs.job import Job
from common.jobs.system_lanes import WEBHOOKS, system_tenant
from common.redis.keys import (
    LaneKeys,
    dead_deliveries_key,
    deliveries_key,
    delivery_key,
    meta_key,
)
from common.redis.packed import Command, run_packed
from common.redis.scripts import AsyncScripts
from common.settings import Settings

PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
STATES = (PENDING, DELIVERED, DEAD)
_FIELDS = (
    "tenant",
    "endpoint",
    "url",
    "type",
    "subject",
    "state",
    "created",
    "tries",
    "log",
)
_LOG_MAX = 50
_JOB_LIST_MAX = 1
_PER_CALL = 200
_TRIM_COUNT = 1_000


class Attempt(NamedTuple):
    """One try at a delivery."""

    at_ms: int
    status: int | None
    """Of the answer; None where there was none."""
    ms: float
    answer: str
    """The answer's first characters; empty where they are not to be shown."""
    error: str
    """Why it failed, in a sentence; empty where it was delivered."""


@dataclass(slots=True)
class Delivery:
    """One event on its way to one receiver."""

    id: str
    """Sent as webhook-id: the same for every attempt."""
    tenant: str
    endpoint: str
    """The endpoint's id; empty for a URL that the job named."""
    url: str
    """That URL; empty with an endpoint, whose URL is looked up."""
    type: str
    subject: str
    body: bytes
    created_ms: int
    state: str = PENDING
    tries: int = 0
    """Attempts since it was made or replayed."""
    log: list[Attempt] = field(default_factory=list)


def delivery_id(entry_id: str, event_subject: str, target: str) -> str:
    """The same for the same entry of the outbox and target, so that one read twice is one."""
    digest = hashlib.sha256(f"{entry_id}\n{event_subject}\n{target}".encode()).hexdigest()
    return f"msg_{digest[:32]}"


class Deliveries:
    """Reads and writes them, and puts them into their lane."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._client = client
        self._scripts = AsyncScripts(client)
        self._settings = settings
        longest = sum(settings.webhook_schedule_seconds) * (1 + settings.webhook_jitter)
        self._ttl = int(longest * 2) + settings.webhook_keep_seconds
        self._waiting_ttl = self._ttl + int(settings.webhook_retry_after_seconds)

    async def add(self, deliveries: Sequence[Delivery]) -> None:
        """Write new ones and put them into the lane; doing it again changes nothing."""
        commands: list[Command] = []
        for one in deliveries:
            key = delivery_key(one.id)
            commands += (
                ("HSET", key, *_fields_of(one)),
                ("HSETNX", key, "state", PENDING),
                ("EXPIRE", key, self._ttl),
            )
        for tenant in {one.tenant for one in deliveries}:
            index = deliveries_key(tenant)
            mine = [one for one in deliveries if one.tenant == tenant]
            scores: list[str | int] = []
            for one in mine:
                scores += (one.created_ms, one.id)
            commands += (
                ("ZADD", index, *scores),
                ("EXPIRE", index, self._ttl),
            )
        await run_packed(self._client, commands)
        await self._enqueue(deliveries)
        for tenant in {one.tenant for one in deliveries}:
            await self._trim(tenant)

    async def _trim(self, tenant: str) -> None:
        """Forget the oldest of too many that were delivered. What is still to be sent stays,
        however many that are; the dead are bounded by themselves, as they are the oldest.
        """
        index = deliveries_key(tenant)
        excess = int(await self._client.zcard(index)) - self._settings.webhook_list_max
        if excess <= 0:
            return
        # Anywhere among the oldest, as many of these may wait for a receiver that is away.
        first = random.randint(0, max(0, excess - _TRIM_COUNT))  # noqa: S311
        found: Any = await self._client.zrange(index, first, first + min(excess, _TRIM_COUNT) - 1)
        ids = [one.decode() for one in found]
        states = await run_packed(
            self._client, [("HGET", delivery_key(one), "state") for one in ids]
        )
        kept = (PENDING.encode(), DEAD.encode())
        ended = [one for one, state in zip(ids, states, strict=True) if state not in kept]
        if ended:
            keys = map(delivery_key, ended)
            await run_packed(self._client, [("UNLINK", *keys), ("ZREM", index, *ended)])

    async def _trim_dead(self, tenant: str) -> None:
        """Forget the oldest of too many that were given up."""
        index = dead_deliveries_key(tenant)
        excess = int(await self._client.zcard(index)) - self._settings.webhook_list_max
        if excess > 0:
            found: Any = await self._client.zrange(index, 0, min(excess, _TRIM_COUNT) - 1)
            ids = [one.decode() for one in found]
            commands: list[Command] = [("UNLINK", *map(delivery_key, ids))]
            commands += (("ZREM", key, *ids) for key in (index, deliveries_key(tenant)))
            await run_packed(self._client, commands)

    async def _enqueue(self, deliveries: Iterable[Delivery]) -> None:
        jobs = [
            Job(WEBHOOKS, None, id=one.id, tenant=system_tenant(one.tenant)) for one in deliveries
        ]
        window = self._settings.tenant_window_jobs
        for first in range(0, len(jobs), _PER_CALL):
            part = jobs[first : first + _PER_CALL]
            # The bound is for whoever submits jobs; what has happened is always told.
            args = enqueue_args(part, 1_000_000_000, window, _JOB_LIST_MAX)
            await self._scripts.run("enqueue", (), args)

    async def read(self, ids: Sequence[str]) -> list[Delivery | None]:
        """These deliveries; None for those that are no longer kept."""
        found = await run_packed(
            self._client, [("HMGET", delivery_key(one), *_FIELDS, "body") for one in ids]
        )
        return [_read(one, words) for one, words in zip(ids, found, strict=True)]

    async def look_at(self, ids: Sequence[str]) -> list[Delivery | None]:
        """The same without their bodies, which may be large."""
        found = await run_packed(
            self._client, [("HMGET", delivery_key(one), *_FIELDS) for one in ids]
        )
        return [_read(one, [*words, b""]) for one, words in zip(ids, found, strict=True)]

    async def note(self, deliveries: Sequence[Delivery]) -> None:
        """Write how far these are; doing it again changes nothing."""
        commands: list[Command] = []
        for one in deliveries:
            written = ("state", one.state, "tries", one.tries, "log", _log_of(one))
            commands.append(("HSET", delivery_key(one.id), *written))
        await run_packed(self._client, commands)
        await self._keep(deliveries)

    async def note_attempts(self, made: Sequence[tuple[bytes, Delivery]]) -> None:
        """The same of deliveries with the tags of their leases: a courier that stood still writes
        nothing over what another has written since.
        """
        args: list[str | int | bytes] = []
        for tag, one in made:
            args += (tag, delivery_key(one.id), one.state, one.tries, _log_of(one))
        lost = set(await self._scripts.run("note_attempts", (LaneKeys.of(WEBHOOKS).unacked,), args))
        await self._keep([one for at, (_, one) in enumerate(made) if at not in lost])

    async def _keep(self, deliveries: Sequence[Delivery]) -> None:
        """Have those that were not delivered last, and the dead listed."""
        commands: list[Command] = []
        dead: set[str] = set()
        for one in deliveries:
            if one.state == DELIVERED:
                continue
            # A receiver that asks for patience may outlast the time that it was made to last.
            commands.append(("EXPIRE", delivery_key(one.id), self._waiting_ttl))
            commands.append(("EXPIRE", deliveries_key(one.tenant), self._waiting_ttl))
            if one.state == DEAD:
                dead.add(one.tenant)
                index, at_ms = dead_deliveries_key(one.tenant), one.log[-1].at_ms if one.log else 0
                commands += (("ZADD", index, at_ms, one.id), ("EXPIRE", index, self._waiting_ttl))
        await run_packed(self._client, commands)
        for tenant in dead:
            await self._trim_dead(tenant)

    async def replay(self, deliveries: Sequence[Delivery]) -> int:
        """Send these again under the same ids; returns how many. Pending ones are sent anyway:
        enqueued where they have no job, as whoever replayed them may have died in between.
        """
        again = [one for one in deliveries if one.state != PENDING]
        for one in again:
            one.state, one.tries = PENDING, 0
        if again:
            await self.note(again)
            dead = [("ZREM", dead_deliveries_key(one.tenant), one.id) for one in again]
            settled = [("DEL", meta_key(one.id)) for one in again]
            await run_packed(self._client, [*dead, *settled])
        await self._enqueue(deliveries)
        return len(again)

    async def newest(
        self, tenant: str, offset: int, count: int, *, dead: bool = False
    ) -> list[str]:
        """The ids of the tenant's deliveries, or of the dead ones alone, newest first."""
        key = dead_deliveries_key(tenant) if dead else deliveries_key(tenant)
        found: Any = await self._client.zrevrange(key, offset, offset + count - 1)
        return [one.decode() for one in found]

    async def waiting_by_tenant(self) -> dict[str, int]:
        """How many are in the lane, leased and delayed ones included."""
        return await waiting_in_lane(self._client)


async def waiting_in_lane(client: redis.asyncio.Redis) -> dict[str, int]:
    """Deliveries that are not settled, by the name under which their tenant is counted."""
    found: Any = await client.hgetall(LaneKeys.of(WEBHOOKS).tenants)
    return {name.decode(): int(count) for name, count in found.items()}


def _log_of(one: Delivery) -> bytes:
    return orjson.dumps([list(attempt) for attempt in one.log[-_LOG_MAX:]])


def _fields_of(one: Delivery) -> Command:
    """What stays as it was made."""
    return (
        *("tenant", one.tenant, "endpoint", one.endpoint, "url", one.url, "type", one.type),
        *("subject", one.subject, "body", one.body, "created", one.created_ms),
    )


def _read(delivery: str, words: Sequence[bytes | None]) -> Delivery | None:
    tenant, endpoint, url, kind, subject, state, created, tries, log, body = words
    if body is None or created is None or state is None:
        return None
    attempts = [Attempt(*one) for one in orjson.loads(log)] if log else []
    return Delivery(
        delivery,
        _text(tenant),
        _text(endpoint),
        _text(url),
        _text(kind),
        _text(subject),
        body,
        int(created),
        _text(state),
        int(tries or 0),
        attempts,
    )


def _text(word: bytes | None) -> str:
    return "" if word is None else word.decode()

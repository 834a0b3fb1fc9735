"""Deliveries: what is sent to whom, how each attempt went, and what waits to be sent again.

Each is one hash, for as long as it may be retried and looked at. The job of `~webhook` that
carries it has its id and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import redis.asyncio

from common.jobs.enqueue import enqueue_args
from common.jobs.job import Job
from common.jobs.system_lanes import WEBHOOKS, system_tenant
from common.redis.keys import LaneKeys, deliveries_key, delivery_key, meta_key
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
    "body",
    "state",
    "created",
    "tries",
    "log",
)
_LOG_MAX = 50
_JOB_LIST_MAX = 1
_PER_CALL = 200


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
                ("ZREMRANGEBYRANK", index, 0, -self._settings.webhook_list_max - 1),
                ("EXPIRE", index, self._ttl),
            )
        await run_packed(self._client, commands)
        await self._enqueue(deliveries)

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
            self._client, [("HMGET", delivery_key(one), *_FIELDS) for one in ids]
        )
        return [_read(one, words) for one, words in zip(ids, found, strict=True)]

    async def note(self, deliveries: Sequence[Delivery]) -> None:
        """Write how far these are; doing it again changes nothing."""
        commands: list[Command] = []
        for one in deliveries:
            log = orjson.dumps([list(attempt) for attempt in one.log[-_LOG_MAX:]])
            written = ("state", one.state, "tries", one.tries, "log", log)
            commands.append(("HSET", delivery_key(one.id), *written))
        await run_packed(self._client, commands)

    async def replay(self, deliveries: Sequence[Delivery]) -> int:
        """Send these again under the same ids; returns how many. Pending ones are sent anyway."""
        again = [one for one in deliveries if one.state != PENDING]
        for one in again:
            one.state, one.tries = PENDING, 0
        if again:
            await self.note(again)
            await self._client.delete(*(meta_key(one.id) for one in again))
            await self._enqueue(again)
        return len(again)

    async def newest(self, tenant: str, offset: int, count: int) -> list[str]:
        """The ids of the tenant's deliveries, newest first."""
        last = offset + count - 1
        found: Any = await self._client.zrevrange(deliveries_key(tenant), offset, last)
        return [one.decode() for one in found]

    async def waiting(self) -> int:
        """How many are in the lane, leased and delayed ones included."""
        return await waiting_in_lane(self._client)


async def waiting_in_lane(client: redis.asyncio.Redis) -> int:
    """Deliveries that are not settled."""
    found: Any = await client.hvals(LaneKeys.of(WEBHOOKS).tenants)
    return sum(map(int, found))


def _fields_of(one: Delivery) -> Command:
    """What stays as it was made."""
    return (
        *("tenant", one.tenant, "endpoint", one.endpoint, "url", one.url, "type", one.type),
        *("subject", one.subject, "body", one.body, "created", one.created_ms),
    )


def _read(delivery: str, words: Sequence[bytes | None]) -> Delivery | None:
    tenant, endpoint, url, kind, subject, body, state, created, tries, log = words
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

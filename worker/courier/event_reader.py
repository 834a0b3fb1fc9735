"""Makes the events of the outbox into deliveries: one for each receiver.

The outbox is a stream with one group of readers: an entry that a courier read is another's when it
was not done in time. A delivery's id follows from its entry, so whoever does one again makes the
same deliveries, and they are made once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError, ResponseError

from common.jobs.system_lanes import system_tenant
from common.metrics.courier import OLDEST, WAITING
from common.metrics.declaration import MetricFamily
from common.redis.ending import end_tasks
from common.redis.keys import EVENTS
from common.redis.trouble import TROUBLE
from common.settings import Settings
from common.webhooks.deliveries import Deliveries, Delivery, delivery_id
from common.webhooks.endpoints import Endpoint, Endpoints, told_of
from common.webhooks.events import EVERY_ENDPOINT, Event, read_entry

log = structlog.get_logger(__name__)

GROUP = "couriers"
_READ_COUNT = 200
_ADDED_BYTES = 2 * 1024 * 1024
"""Of payloads that are written at once: an event may have fifty receivers."""
_BLOCK_MS = 1_000
_LINKED_BYTES = 1_000
_PAUSE_SECONDS = 0.5
_BELIEVED_SECONDS = 1.0
_MEASURE_SECONDS = 2.0
_BELIEVED_MEASURE_SECONDS = 15.0
_AWAY = (RedisError, OSError, TimeoutError)

Entry = tuple[bytes, Mapping[bytes, bytes]]


class EventReader:
    """Reads events in a task of its own."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        courier: str,
        settings: Settings,
        deliveries: Deliveries,
        endpoints: Endpoints,
        on_added: Callable[[], None],
    ) -> None:
        """on_added is told that there are new deliveries in the lane."""
        self._client = client
        self._courier = courier
        self._settings = settings
        self._deliveries = deliveries
        self._endpoints = endpoints
        self._on_added = on_added
        self._claim_at = self._measure_at = 0.0
        self._known: dict[str, tuple[float, dict[str, Endpoint]]] = {}
        self._measured: tuple[float, int, float] | None = None
        """When, on the steady clock; how many wait, and the age of the oldest event."""
        self._in_lane: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(self._run(), name="events")

    async def stop(self) -> None:
        """End; entries in hand are another courier's after a lease."""
        await end_tasks(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self._run_once()
            except ResponseError as exc:
                if not str(exc).startswith("NOGROUP"):
                    TROUBLE.note("reading events", exc)
                    await asyncio.sleep(_PAUSE_SECONDS)
                await self._make_group()
            except _AWAY as exc:
                TROUBLE.note("reading events", exc)
                await asyncio.sleep(_PAUSE_SECONDS)
            except Exception:  # events must be read on, whatever one of them was
                log.exception("events_unread")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _make_group(self) -> None:
        try:
            await self._client.xgroup_create(EVENTS, GROUP, id="0", mkstream=True)
        except _AWAY as exc:
            if not str(exc).startswith("BUSYGROUP"):  # another courier made it
                TROUBLE.note("reading events", exc)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _run_once(self) -> None:
        await self._measure()
        entries = await self._lapsed() or await self._new()
        if not entries:
            return
        made: list[Delivery] = []
        for entry_id, fields in entries:
            made += await self._made_of(entry_id.decode(), fields)
            if sum(len(one.body) for one in made) > _ADDED_BYTES:
                await self._add(made)
                made = []
        await self._add(made)
        ids = [entry_id for entry_id, _ in entries]
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.xack(EVENTS, GROUP, *ids)
            pipe.xdel(EVENTS, *ids)
            await pipe.execute()

    async def _add(self, made: Sequence[Delivery]) -> None:
        if made:
            await self._deliveries.add(made)
            self._on_added()

    async def _new(self) -> Sequence[Entry]:
        reply: Any = await self._client.xreadgroup(
            GROUP, self._courier, {EVENTS: ">"}, count=_READ_COUNT, block=_BLOCK_MS
        )
        return list(reply[0][1]) if reply else []

    async def _lapsed(self) -> Sequence[Entry]:
        """Entries that a courier has read and not finished in time."""
        now = time.monotonic()
        if now < self._claim_at:
            return []
        lease_ms = self._settings.lease_ms
        reply: Any = await self._client.xautoclaim(
            EVENTS, GROUP, self._courier, lease_ms, count=_READ_COUNT
        )
        entries = [entry for entry in reply[1] if entry[1]]
        if len(entries) < _READ_COUNT:
            self._claim_at = now + lease_ms / 2000
        return entries

    async def _made_of(self, entry_id: str, fields: Mapping[bytes, bytes]) -> list[Delivery]:
        settings = self._settings
        try:
            base_url = settings.public_url or ""
            event = read_entry(fields, settings.webhook_result_bytes, base_url)
            many = self.waiting_of(event.tenant) >= settings.webhook_results_waiting
            if many and len(event.body) > _LINKED_BYTES:
                event = read_entry(fields, _LINKED_BYTES, base_url)
        except Exception:  # an entry that anybody may have written; the next one is read
            log.exception("event_unreadable", entry=entry_id)
            return []
        now_ms = int(time.time() * 1000)
        return [
            Delivery(
                id=delivery_id(entry_id, event.subject, endpoint or url),
                tenant=event.tenant,
                endpoint=endpoint,
                url=url,
                type=event.type,
                subject=event.subject,
                body=event.body,
                created_ms=now_ms,
            )
            for endpoint, url in await self._receivers(event)
        ]

    async def _receivers(self, event: Event) -> list[tuple[str, str]]:
        """Endpoint's id, or URL, of each: the one that the job names, and those that ask for it."""
        named = event.target
        is_url = "://" in named
        receivers = [("", named)] if is_url else []
        if named and named != EVERY_ENDPOINT and not is_url:
            receivers.append((named, ""))
        asking = told_of((await self._endpoints_of(event.tenant)).values(), event.type)
        return receivers + [(one.id, "") for one in asking if one.id != named]

    async def _endpoints_of(self, tenant: str) -> dict[str, Endpoint]:
        now = time.monotonic()
        at, known = self._known.get(tenant, (-1e9, {}))
        if now - at > _BELIEVED_SECONDS:
            if len(self._known) > 10_000:
                self._known.clear()
            known = await self._endpoints.all_of(tenant)
            self._known[tenant] = (now, known)
        return known

    async def _measure(self) -> None:
        now = time.monotonic()
        if now < self._measure_at:
            return
        self._measure_at = now + _MEASURE_SECONDS
        events = int(await self._client.xlen(EVENTS))
        self._in_lane = await self._deliveries.waiting_by_tenant()
        waiting = events + sum(self._in_lane.values())
        first: Any = await self._client.xrange(EVENTS, count=1)
        made_ms = int(first[0][0].partition(b"-")[0]) if first else None
        oldest = 0.0 if made_ms is None else max(0.0, time.time() - made_ms / 1000)
        self._measured = (time.monotonic(), waiting, oldest)

    def waiting_of(self, tenant: str) -> int:
        """Deliveries of the tenant that were not settled a moment ago."""
        return self._in_lane.get(system_tenant(tenant), 0)

    def families(self) -> Iterator[MetricFamily]:
        """What waits, for one scrape; nothing of what has not been measured lately, as while Redis
        is away: an old figure would look like a true one.
        """
        waiting, oldest = WAITING.family(), OLDEST.family()
        measured = self._measured
        if measured is not None and time.monotonic() - measured[0] < _BELIEVED_MEASURE_SECONDS:
            waiting.add(measured[1])
            oldest.add(measured[2])
        yield from (waiting, oldest)

"""Looks up cached results, many per round trip, and answers jobs with them.

A hit becomes a job like any other: its result is written where Celery and
`GET /v1/jobs/{id}` read it. That write is sent before the response, but the response does
not wait for it: the client gets the result also when the queue's Redis accepts no writes. A
client that gets only an id (bulk) does wait, and a failed write makes its lookup a miss.

An unavailable cache costs one attempt per second and process; until it is back, every
lookup is a miss at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
import redis.asyncio
import structlog
from redis.exceptions import RedisError, ResponseError

from api.background.coalescer import Coalescer
from common.jobs.cache_entry import Entry, age_seconds, unpack
from common.jobs.enqueue import ending_fields
from common.jobs.job import CacheTicket, Job
from common.jobs.record import JobRecord
from common.jobs.result_document import cache_hit
from common.redis.keys import CACHE_PREFIX, EVENTS, cache_key, meta_key

log = structlog.get_logger(__name__)

_LOOKUPS_PER_CALL = 500
_MAX_IN_PROGRESS = 2
"""Most concurrent round trips."""
_BLIND_SECONDS = 1.0
_LATE_IN_A_ROW = 3
_KEYS_PER_SCAN = 1_000
_SCAN_SECONDS = 5.0
_AWAY = (RedisError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Hit:
    """A job that was answered from the cache."""

    job_id: str
    lane: str
    entry: Entry
    at_ms: int
    """When the hit was found, Unix milliseconds."""
    tenant: str = ""
    webhook: str = ""
    """Who is told of it, as of a job."""

    @property
    def age_seconds(self) -> int:
        """Age of the result."""
        return age_seconds(self.entry, self.at_ms)

    def meta(self) -> bytes:
        """The result in the form that Celery stores."""
        return cache_hit(self.entry, self.job_id, self.lane, self.at_ms, self.tenant)

    def record(self) -> JobRecord:
        """The job's record."""
        record = JobRecord.read(self.job_id, None, self.meta())
        assert record is not None
        return record


class ResultCache:
    """Looks up cached results for jobs that have a ticket."""

    def __init__(
        self,
        cache: redis.asyncio.Redis,
        queue: redis.asyncio.Redis,
        timeout_seconds: float,
        result_ttl_seconds: Callable[[str], int],
        queue_is_there: Callable[[], bool] = lambda: True,
    ) -> None:
        """Timeouts are applied here, so the clients should have none."""
        self._cache = cache
        self._queue = queue
        self._timeout = timeout_seconds
        self._result_ttl = result_ttl_seconds
        self._queue_is_there = queue_is_there
        self._lookups: Coalescer[Job, Hit | None] = Coalescer(
            self._find_sent, max_items=_LOOKUPS_PER_CALL, max_in_progress=_MAX_IN_PROGRESS
        )
        self._replies: set[asyncio.Task[bool]] = set()
        self._blind_until = 0.0
        self._late = 0
        self.looks: Counter[tuple[str, str]] = Counter()
        """Lookups by model and outcome."""

    async def find(self, job: Job) -> Hit | None:
        """The cached result for this job that its directives allow, or None. Never raises."""
        if not _may_look(job) or asyncio.get_running_loop().time() < self._blind_until:
            return None
        return await self._lookups.submit(job)

    async def find_all(self, jobs: Sequence[Job]) -> list[Hit | None]:
        """As `find` for many at once; only hits whose result was written are returned."""
        hits: list[Hit | None] = [None] * len(jobs)
        looking = [position for position, job in enumerate(jobs) if _may_look(job)]
        if not looking or asyncio.get_running_loop().time() < self._blind_until:
            return hits
        found = await self._look([jobs[position] for position in looking])
        known = [hit for hit in found if hit is not None]
        if known and await self._write(known):
            for position, hit in zip(looking, found, strict=True):
                hits[position] = hit
        return hits

    async def purge(self, model: str) -> int:
        """Delete the cached results of this model; returns how many. Never raises."""
        freed = 0
        try:
            async for keys in self._keys_of(model):
                freed += int(await self._cache.unlink(*keys))
        except _AWAY as exc:  # they are no longer found, and expire
            log.warning("purge_left_results", model=model, freed=freed, error=str(exc))
        return freed

    async def _keys_of(self, model: str) -> AsyncIterator[Sequence[bytes | str]]:
        cursor = 0
        while True:
            async with asyncio.timeout(_SCAN_SECONDS):
                cursor, keys = await self._cache.scan(
                    cursor, match=f"{CACHE_PREFIX}{model}:*", count=_KEYS_PER_SCAN
                )
            if keys:
                yield keys
            if not cursor:
                return

    async def _find_sent(self, jobs: Sequence[Job]) -> Sequence[Hit | None]:
        """For single lookups: the write of a hit is sent, and not awaited."""
        found: list[Hit | None] = [None] * len(jobs)
        try:
            found = await self._look(jobs)
            hits = [hit for hit in found if hit is not None]
            if hits:
                await self._send(hits)
        except Exception:
            log.exception("cache_look_failed")
        return found

    async def _look(self, jobs: Sequence[Job]) -> list[Hit | None]:
        tickets = [_ticket(job) for job in jobs]
        keys = [cache_key(ticket.model, ticket.digest) for ticket in tickets]
        try:
            async with asyncio.timeout(self._timeout):
                raws = await self._fetch(keys)
        except _AWAY as exc:
            self._note_failure(late=isinstance(exc, TimeoutError))
            log.warning("cache_unreachable", error=str(exc), exc_type=type(exc).__name__)
            for ticket in tickets:
                self.looks[ticket.model, "error"] += 1
            return [None] * len(jobs)
        self._late = 0
        now_ms = int(time.time() * 1000)
        return [
            self._judge(job, ticket, unpack(key, raw), now_ms)
            for job, ticket, key, raw in zip(jobs, tickets, keys, raws, strict=True)
        ]

    def _judge(self, job: Job, ticket: CacheTicket, entry: Entry | None, now_ms: int) -> Hit | None:
        longest = ticket.max_age_seconds
        if entry is None or entry.weights != ticket.weights:
            self.looks[ticket.model, "miss"] += 1
            return None
        if longest is not None and age_seconds(entry, now_ms) > longest:
            self.looks[ticket.model, "too_old"] += 1
            return None
        self.looks[ticket.model, "hit"] += 1
        return Hit(job.id, job.model, entry, now_ms, job.tenant, job.webhook)

    def _note_failure(self, *, late: bool) -> None:
        """Pause the lookups after a failure; after timeouts only when several come in a row, as one
        may be due to a busy event loop here.
        """
        self._late += 1
        if not late or self._late >= _LATE_IN_A_ROW:
            self._late = 0
            self._blind_until = asyncio.get_running_loop().time() + _BLIND_SECONDS

    async def _fetch(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """MGET, in half of redis-py's time for it."""
        pool = self._cache.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(_packed("MGET", *keys))
            raws: Sequence[bytes | None] = await connection.read_response()
            return raws
        finally:
            await pool.release(connection)

    async def _send(self, hits: Sequence[Hit]) -> asyncio.Task[bool] | None:
        """Send the results of these hits to the queue's Redis; None when it is unavailable."""
        if not self._queue_is_there():
            return None
        pool = self._queue.connection_pool
        commands = [
            _packed("SET", meta_key(hit.job_id), hit.meta(), "EX", self._result_ttl(hit.lane))
            for hit in hits
        ]
        commands += [_event(hit) for hit in hits if hit.webhook]
        try:
            async with asyncio.timeout(self._timeout):
                connection = await pool.get_connection()
                try:
                    await connection.send_packed_command([b"".join(commands)])
                except BaseException:
                    await pool.release(connection)
                    raise
        except _AWAY as exc:
            log.warning("hits_unrecorded", jobs=len(hits), error=str(exc))
            return None
        task = asyncio.create_task(
            self._read_replies(pool, connection, len(commands), self._timeout)
        )
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)
        return task

    async def _write(self, hits: Sequence[Hit]) -> bool:
        sent = await self._send(hits)
        return sent is not None and await sent

    @staticmethod
    async def _read_replies(pool: Any, connection: Any, count: int, seconds: float) -> bool:
        """Read the replies; returns whether all was written."""
        written = 0
        try:
            async with asyncio.timeout(seconds):
                for _ in range(count):
                    try:
                        await connection.read_response()
                        written += 1
                    except ResponseError as exc:  # at maxmemory, or a replica
                        log.warning("hit_unrecorded", error=str(exc))
        except _AWAY as exc:
            log.warning("hits_unrecorded", jobs=count - written, error=str(exc))
        finally:
            await pool.release(connection)
        return written == count


def _packed(*command: str | bytes | int) -> bytes:
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]  # any number of words


def _event(hit: Hit) -> bytes:
    """The outbox's entry of a job that ended before it was queued."""
    return _packed("XADD", EVENTS, "*", *ending_fields(hit.job_id, hit.webhook, hit.meta()))


def _may_look(job: Job) -> bool:
    return job.cache is not None and job.cache.look


def _ticket(job: Job) -> CacheTicket:
    assert job.cache is not None
    return job.cache

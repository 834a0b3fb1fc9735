"""Follows a job for one reader: the steps of its life, and what it says as it says it.

The news are values; the routes write them, as events of ours or in OpenAI's shape. A job that
follows an identical one is read in that one's stream. At the end of any job that generates, the
reader has its whole text: what no stream told is taken from the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.exceptions import RedisError

from api.http.request_context import note_waited
from api.http.request_errors import RequestError
from api.jobs.events import JobEvent, history, news
from api.jobs.progress import Piece, Progress
from api.jobs.said import Entry, SaidReader
from api.jobs.views import QueuePosition
from api.jobs.watch import Watch
from api.services import Services
from api.tenants.auth import Principal
from common.generation.inputs import TASK
from common.jobs.record import JobRecord, JobState
from common.redis.trouble import TROUBLE

_MOVES_SECONDS = 5.0
"""How often a stream checks whether its job has moved up."""
_POSITION_SECONDS = 1.0
"""How long a position is not looked up again, as when the first token comes instead."""
_MOST_LEADERS = 8
_LEADER_SECONDS = 1.0
"""How often a stream checks whether another job runs for its own by now."""


@dataclass(frozen=True, slots=True)
class Step:
    """A job entered a state, or moved up in its lane."""

    event: JobEvent
    position: QueuePosition | None
    progress: str

    @property
    def last(self) -> bool:
        """Whether the job is settled."""
        return self.event.record.state.terminal


News = Step | Piece


def _nobody() -> None:
    """Wake nobody."""


class _Text:
    """The text of one job, wherever it comes from."""

    def __init__(self, services: Services, job_id: str, progress: Progress, watch: Watch) -> None:
        self._services = services
        self._job_id = job_id
        self._progress = progress
        self._watch = watch
        self._reader: SaidReader | None = None
        self._looked: JobRecord | None = None
        self._look_at = 0.0

    def kept(self, record: JobRecord) -> list[News] | None:
        """What was published meanwhile; None where something has to be read first."""
        reader = self._reader
        if reader is None or record is not self._looked or not reader.is_live:
            return None
        if record.state.terminal or asyncio.get_running_loop().time() >= self._look_at:
            return None
        return self._read(reader.kept())

    async def take(self, record: JobRecord) -> list[News]:
        """What is new; after the job's end, all the rest."""
        told = self._read(await self._entries(record))
        if record.state is JobState.SUCCEEDED:
            told += self._progress.rest_of(record.value)
        return told

    def close(self) -> None:
        """End the reading."""
        if self._reader is not None:
            self._services.said.close(self._reader)

    async def _entries(self, record: JobRecord) -> list[tuple[int, Entry]]:
        if not record.state.terminal:
            return await (await self._source(record)).take()
        if record.cached:
            return []
        entry = self._progress.entry
        reader = self._reader or SaidReader(self._services.said, self._job_id, entry, _nobody)
        return await reader.rest()

    async def _source(self, record: JobRecord) -> SaidReader:
        """The reader of the stream in which the job's text is."""
        now = asyncio.get_running_loop().time()
        if self._reader is not None and record is self._looked and now < self._look_at:
            return self._reader
        self._looked, self._look_at = record, now + _LEADER_SECONDS
        source = await self._leader_of(record)
        if self._reader is not None:
            if source == self._reader.job_id:
                return self._reader
            self._services.said.close(self._reader)
            self._progress.restart(own=source == self._job_id)
        elif source != self._job_id:
            self._progress.restart(own=False)
        entry = self._progress.entry
        self._reader = await self._services.said.open(source, entry, self._watch.wake)
        return self._reader

    async def _leader_of(self, record: JobRecord) -> str:
        """The job that runs for this one: its leader may follow another itself."""
        source = self._job_id
        for _ in range(_MOST_LEADERS):
            if not record.leader:
                break
            source = record.leader
            leading = await self._services.store.get(source)
            if leading is None:
                break
            record = leading
        return source

    def _read(self, entries: list[tuple[int, Entry]]) -> list[News]:
        return [piece for number, entry in entries for piece in self._progress.take(number, entry)]


async def follow(
    services: Services,
    principal: Principal,
    job_id: str,
    last_id: str | None,
    seconds: float,
    settled: JobRecord | None = None,
) -> AsyncGenerator[list[News], None]:
    """The news after the event of this id, as they occur; an empty list where nothing happens.

    settled is the job's record where it ended before, which may not be readable yet.

    Ends with the job, after so many seconds, when the process is to end, the key is revoked, or
    Redis cannot be reached: whoever wants the rest follows again from the last id. `queued` comes
    again, with the same id, when the job has moved up. Meanwhile it is one of the tenant's streams.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    silence = min(services.settings.event_heartbeat_seconds, _MOVES_SECONDS)
    last_id, progress = Progress.read(last_id)
    async with (
        _in_its_share(services, principal),
        services.watches.watch(job_id) as watch,
        _ending_without_redis(),
    ):
        record = settled or await services.store.get(job_id)
        steps = _Steps(services, last_id, progress)
        async with _text_of(services, record, progress, watch) as text:
            while record is not None:
                kept = text.kept(record) if text is not None and steps.knows(record) else None
                if kept is not None:
                    batch = kept
                else:
                    record, batch = await _look(services, record, steps, text, watch)
                if batch:
                    yield batch
                if record.state.terminal or services.draining.is_set() or loop.time() >= ends_at:
                    return
                began = loop.time()
                changed = await watch.change(silence)
                note_waited(loop.time() - began)
                if not services.authenticator.knows(principal):
                    await services.authenticator.recheck(principal)
                if watch.gone:
                    return
                if not changed:
                    yield []
                record = watch.latest or record


async def _look(
    services: Services, record: JobRecord, steps: _Steps, text: _Text | None, watch: Watch
) -> tuple[JobRecord, list[News]]:
    """What is new, with the record as it is by now: the end of a job comes after all its text."""
    steps.begin()
    batch = await steps.take(record)
    if text is None or (record.state.terminal and not batch):
        return record, batch
    said = await text.take(record)
    if said and record.state is JobState.QUEUED and not record.leader:
        # Its start is not announced, but is told before its first token all the same.
        record = await services.store.get(record.id) or record
        watch.put(record)
        batch += await steps.take(record)
        if record.state.terminal:
            said += await text.take(record)
    end = len(batch) - record.state.terminal
    return record, [*batch[:end], *said, *batch[end:]]


class _Steps:
    """The steps of one job's life."""

    def __init__(self, services: Services, last_id: str | None, progress: Progress) -> None:
        self._services = services
        self._last_id = last_id
        self._progress = progress
        self._told = ""
        self._position: QueuePosition | None = None
        self._looked: JobRecord | None = None
        self._look_at = 0.0

    async def take(self, record: JobRecord) -> list[News]:
        """Those that are new, or the current one again where the job has moved up."""
        now = asyncio.get_running_loop().time()
        waits = record.state is JobState.QUEUED and now >= self._look_at
        if record is self._looked and not waits:
            return []
        self._looked, self._look_at = record, now + _POSITION_SECONDS
        position, told = await self._services.positions.of(record), self._position
        self._position = position
        moved = position and told and position.ahead != told.ahead
        fresh = news(record, self._last_id) or (history(record)[-1:] if moved else [])
        if fresh:
            self._last_id = fresh[-1].id
        return [
            Step(one, position, "" if one.record.state.terminal else self._told) for one in fresh
        ]

    def begin(self) -> None:
        """Steps taken from now on come after the text that was taken until now."""
        self._told = str(self._progress)

    def knows(self, record: JobRecord) -> bool:
        """Whether `take` would look at nothing: it has seen this record, and nothing moves up."""
        return record is self._looked and record.state is not JobState.QUEUED


@asynccontextmanager
async def _text_of(
    services: Services, record: JobRecord | None, progress: Progress, watch: Watch
) -> AsyncIterator[_Text | None]:
    """The text of a job whose model generates; None of others."""
    catalog = services.catalog
    if record is None or record.lane not in catalog or catalog[record.lane].task != TASK:
        yield None
        return
    text = _Text(services, record.id, progress, watch)
    try:
        yield text
    finally:
        text.close()


@asynccontextmanager
async def _in_its_share(services: Services, principal: Principal) -> AsyncIterator[None]:
    """Have the stream in its place among those of the tenant; a revoked key ends it."""
    services.streams.take(principal.tenant)
    try:
        yield
    except RequestError:
        return  # who connects again is told
    finally:
        services.streams.give(principal.tenant)


@asynccontextmanager
async def _ending_without_redis() -> AsyncIterator[None]:
    """End a stream that cannot continue; its client reconnects with `Last-Event-ID`."""
    try:
        yield
    except RedisError as exc:
        TROUBLE.note("streaming events", exc)

"""Lists a tenant's jobs, newest first, a page at a time.

The cursor is the sequence number of the last job that was examined. Numbers only grow: jobs
that arrive between two pages have higher ones, so no page repeats or omits a job. One script
call examines a bounded number of jobs, so that it does not block Redis; with filters that
match few jobs a page takes several calls, and a page that is short all the same has a cursor
where more jobs remain.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import redis.asyncio

from api.background.coalescer import Coalescer
from api.http.request_errors import InvalidCursor
from api.http.turns import Turns
from common.jobs.enqueue import labels_text
from common.jobs.record import JobRecord, JobState
from common.jobs.script_calls import LabelsOfJob, ListJobsCall
from common.redis.scripts import AsyncScripts

_LOOKS_PER_CALL = 500
_CALLS_PER_PAGE = 10
_LABELS_PER_CALL, _MAX_IN_PROGRESS = 20, 4
_CURSOR = re.compile(rb"jobs<(\d{1,15})")


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; empty fields do not filter."""

    model: str = ""
    state: JobState | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: Mapping[str, str] | None = None
    """All of which a job must have."""
    open_only: bool = False
    """Only jobs that are not settled; in place of a state."""


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs without their results, and the cursor of the next page."""

    records: Sequence[JobRecord]
    next_cursor: str | None


_NONE_AT_ALL = "-"
_BELIEVED_SECONDS = 0.2


class Listing:
    """Reads the index that the enqueue script writes."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._scripts = AsyncScripts(client)
        self._turns = Turns()
        self._without: dict[str, float] = {}
        """Tenants whose jobs have no labels, and until when that is believed, steady time: asking
        for each job that is read was a fifth of its cost.
        """
        self._labels: Coalescer[LabelsOfJob, str] = Coalescer(
            self._ask_labels, max_items=_LABELS_PER_CALL, max_in_progress=_MAX_IN_PROGRESS
        )

    async def labeled(self, record: JobRecord) -> JobRecord:
        """The record with the labels of its job, as long as the index has it."""
        if record.created_ms is None or record.labels:
            return record
        if self._without.get(record.tenant, 0.0) > time.monotonic():
            return record
        asked = LabelsOfJob(record.tenant, record.id, record.created_ms)
        labels = await self._labels.share(asked)
        return replace(record, labels=labels) if labels else record

    async def _ask_labels(self, jobs: Sequence[LabelsOfJob]) -> Sequence[str | Exception]:
        words: list[str | bytes | int | float] = []
        for job in jobs:
            words += job
        found = [one.decode() for one in await self._scripts.run("job_labels", (), words)]
        until = time.monotonic() + _BELIEVED_SECONDS
        self._without = {
            job.tenant: until for job, one in zip(jobs, found, strict=True) if one == _NONE_AT_ALL
        }
        return ["" if one == _NONE_AT_ALL else one for one in found]

    async def page(self, tenant: str, wanted: JobFilter, limit: int, cursor: str | None) -> Page:
        """One page; raises InvalidCursor for a cursor that this API did not issue."""
        below = _number(cursor) if cursor else 0
        async with self._turns.of(tenant):
            return await self._page(tenant, wanted, limit, below)

    async def _page(self, tenant: str, wanted: JobFilter, limit: int, below: int) -> Page:
        records: list[JobRecord] = []
        for _ in range(_CALLS_PER_PAGE):
            left = limit - len(records)
            below, *found = await self._scripts.run(
                "list_jobs",
                (),
                ListJobsCall(tenant, below, left, _LOOKS_PER_CALL, *_words(wanted)),
            )
            quartets = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
            for job_id, record, meta, labels in quartets:
                known = JobRecord.read(job_id.decode(), record, meta)
                if known is not None:
                    records.append(replace(known, labels=labels.decode()) if labels else known)
            if not below or len(records) >= limit:
                break
        return Page(records, _cursor(below) if below else None)


def _words(wanted: JobFilter) -> tuple[str, str, int, int, str]:
    return (
        wanted.model,
        "open" if wanted.open_only else wanted.state or "",
        _ms(wanted.created_after),
        _ms(wanted.created_before),
        labels_text(wanted.labels) if wanted.labels else "",
    )


def _ms(moment: datetime | None) -> int:
    """Unix ms, at least 1; 0 for none."""
    return 0 if moment is None else max(1, int(moment.timestamp() * 1000))


def _cursor(below: int) -> str:
    return base64.urlsafe_b64encode(b"jobs<%d" % below).decode().rstrip("=")


def _number(cursor: str) -> int:
    try:
        found = _CURSOR.fullmatch(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        found = None
    if not found:
        raise InvalidCursor("`cursor` must be a `next_cursor` of an earlier page, as it was")
    return int(found.group(1))

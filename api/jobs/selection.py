"""Cancels or retries the jobs that a filter finds, a page at a time.

One call ends after so many jobs or seconds with a cursor, so that none keeps a connection for
minutes: its caller goes on from there, and knows how far it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from api.jobs.listing import JobFilter, Listing
from api.jobs.store import JobStore
from common.errors import Refused
from common.jobs.enqueue import EnqueueTenant
from common.jobs.record import JobRecord

_PAGE = 200
_SECONDS = 10.0
_CANCELS_AT_A_TIME = 16

Act = Callable[[Sequence[JobRecord]], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Selected:
    """What one call has done."""

    matched: int
    """Jobs that the filter found."""
    jobs: int
    """Those among them that were canceled or retried."""
    next_cursor: str | None
    """Where the next call goes on; None where all was looked at."""


class Selection:
    """Acts on the jobs of one tenant that a filter finds."""

    def __init__(self, listing: Listing, store: JobStore) -> None:
        self._listing = listing
        self._store = store

    async def walk(
        self, tenant: str, wanted: JobFilter, limit: int, cursor: str | None, act: Act | None
    ) -> Selected:
        """Look at up to `limit` jobs from the cursor on; without `act` they are only counted.

        Raises InvalidCursor; Refused where the first retry was.
        """
        matched = jobs = 0
        ends_at = time.monotonic() + _SECONDS
        while True:
            page = await self._listing.page(tenant, wanted, min(_PAGE, limit - matched), cursor)
            matched += len(page.records)
            if act is not None and page.records:
                jobs += await self._acted(act, page.records, jobs)
            cursor = page.next_cursor
            if cursor is None or matched >= limit or time.monotonic() >= ends_at:
                return Selected(matched, jobs, cursor)

    async def _acted(self, act: Act, records: Sequence[JobRecord], before: int) -> int:
        try:
            return await act(records)
        except Refused:
            if not before:
                raise
            return 0

    async def cancel(self, records: Sequence[JobRecord]) -> int:
        """Cancel these; returns how many were not settled before."""
        states: list[str | None] = []
        for first in range(0, len(records), _CANCELS_AT_A_TIME):
            part = records[first : first + _CANCELS_AT_A_TIME]
            states += await asyncio.gather(*(self._store.cancel(one.id) for one in part))
        return states.count("canceled")

    def retry(self, limits: EnqueueTenant | None) -> Act:
        """What returns those to their lanes that are dead, within these limits."""

        async def act(records: Sequence[JobRecord]) -> int:
            by_lane: dict[str, list[str]] = defaultdict(list)
            for record in records:
                by_lane[record.lane].append(record.id)
            return sum(
                [await self._store.retry_dead(lane, ids, limits) for lane, ids in by_lane.items()]
            )

        return act

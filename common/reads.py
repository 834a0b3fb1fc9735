"""Read job records from the event loop, many to a round trip.

A thousand clients that poll, or that look again after a lost connection, ask
within one turn of the loop. Each on its own would take a connection and a
round trip; together they take one MGET.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import redis.asyncio

from common.job import JobRecord
from common.keys import job_key, meta_key

_IDS_PER_TRIP = 64
"""Few enough that a trip stays small where results are large."""


class RecordReads:
    """Looks jobs up; those asked for in one turn of the loop share their trips."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._asked: dict[str, asyncio.Future[JobRecord | None]] = {}
        self._trips: set[asyncio.Task[None]] = set()

    async def get(self, job_id: str) -> JobRecord | None:
        """The job as it stands, or None when nobody knows it (any more)."""
        future = self._asked.get(job_id)
        if future is None:
            loop = asyncio.get_running_loop()
            if not self._asked:
                loop.call_soon(self._depart)
            future = self._asked[job_id] = loop.create_future()
            future.add_done_callback(_seen)
        return await asyncio.shield(future)  # one caller that leaves must not take the others along

    def _depart(self) -> None:
        asked, self._asked = list(self._asked.items()), {}
        for first in range(0, len(asked), _IDS_PER_TRIP):
            trip = asyncio.create_task(self._travel(asked[first : first + _IDS_PER_TRIP]))
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)

    async def _travel(self, asked: Sequence[tuple[str, asyncio.Future[JobRecord | None]]]) -> None:
        keys = [key(job_id) for job_id, _ in asked for key in (job_key, meta_key)]
        try:
            found = cast("list[bytes | None]", await self._client.mget(keys))
        except BaseException as exc:  # noqa: BLE001 - every caller must hear of it
            for _, future in asked:
                future.set_exception(exc)
            return
        for (job_id, future), record, meta in zip(asked, found[::2], found[1::2], strict=True):
            try:
                future.set_result(JobRecord.read(job_id, record, meta))
            except Exception as exc:  # noqa: BLE001 - what one key holds is no other's concern
                future.set_exception(exc)


def _seen(future: asyncio.Future[JobRecord | None]) -> None:
    """An error that nobody waits for any more is no news."""
    if not future.cancelled():
        future.exception()

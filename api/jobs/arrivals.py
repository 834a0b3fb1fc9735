"""Collects results of many futures as they arrive: a wake-up costs O(arrived), not O(waiting)."""

from __future__ import annotations

import asyncio
import contextlib

from common.jobs.record import JobRecord


class Arrivals:
    """Collects the records of the futures added to it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._came: list[tuple[str, JobRecord | None]] = []

    def expect(self, job_id: str, future: asyncio.Future[JobRecord | None]) -> None:
        """Add a future."""

        def arrive(done: asyncio.Future[JobRecord | None]) -> None:
            if not done.cancelled():
                self._came.append((job_id, done.result()))
                self._event.set()

        future.add_done_callback(arrive)

    async def wait(self, seconds: float) -> None:
        """Wait until a future is done, at most this long."""
        if seconds > 0 and not self._came:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), seconds)

    def take(self) -> tuple[list[JobRecord], set[str]]:
        """Remove and return what arrived: records, and the ids that were woken without a record."""
        self._event.clear()
        came, self._came = self._came, []
        records = [record for _, record in came if record is not None]
        return records, {job_id for job_id, record in came if record is None}

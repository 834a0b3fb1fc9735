"""What many futures bring, taken as it comes: a wake-up costs what came and not who waits."""

from __future__ import annotations

import asyncio
import contextlib

from common.jobs.record import JobRecord


class Arrivals:
    """Collects the records that these futures bring."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._came: list[tuple[str, JobRecord | None]] = []

    def expect(self, job_id: str, future: asyncio.Future[JobRecord | None]) -> None:
        """Collect this one too."""

        def arrive(done: asyncio.Future[JobRecord | None]) -> None:
            if not done.cancelled():
                self._came.append((job_id, done.result()))
                self._event.set()

        future.add_done_callback(arrive)

    async def wait(self, seconds: float) -> None:
        """Until something came, at most this long."""
        if seconds > 0 and not self._came:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), seconds)

    def take(self) -> tuple[list[JobRecord], set[str]]:
        """What came: records, and the ids of those woken without news."""
        self._event.clear()
        came, self._came = self._came, []
        records = [record for _, record in came if record is not None]
        return records, {job_id for job_id, record in came if record is None}

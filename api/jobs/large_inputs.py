"""Put large inputs where the settings say, before their jobs are published.

In that order: a job that can be reserved has its input. A submit that dies
in between leaves an input without a job, which a worker's sweeper removes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from common.errors import InputStoreUnavailable
from common.inputs.blobs import STORED, Blobs
from common.jobs.job import Job

__all__ = ("LargeInputs",)

_AT_ONCE = 8


class LargeInputs:
    """Takes the inputs above a size out of jobs, and puts them into the store."""

    def __init__(self, blobs: Blobs | None, larger_than: int) -> None:
        """A store of None leaves every job as it is."""
        self._blobs = blobs
        self._larger_than = larger_than
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def concern(self, job: Job) -> bool:
        """Whether the job's input belongs into the store."""
        return (
            self._blobs is not None
            and job.blob is not None
            and len(job.blob) > self._larger_than
            and job.blob != STORED
        )

    async def put_aside(self, job: Job) -> Job:
        """The job as it is published; raises InputStoreUnavailable."""
        if self._blobs is None or job.blob is None or not self.concern(job):
            return job
        async with self._slots:
            await self._blobs.put(job.id, job.blob)
        return replace(job, blob=STORED)

    async def put_all_aside(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """The same for many; raises InputStoreUnavailable where one fails."""
        if self._blobs is None or not any(map(self.concern, jobs)):
            return jobs
        return await asyncio.gather(*map(self.put_aside, jobs))

    async def drop(self, jobs: Sequence[Job]) -> None:
        """Remove the inputs of jobs that were not taken after all."""
        ids = [job.id for job in jobs if job.blob == STORED]
        if ids and self._blobs is not None:
            with suppress(InputStoreUnavailable):
                await self._blobs.delete(ids)

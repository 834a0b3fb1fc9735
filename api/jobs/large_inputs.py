"""Writes large inputs to the configured store, before their jobs are published.

In that order, so that a job that can be reserved has its input. A submit that fails in
between leaves an orphaned input, which a worker's sweeper deletes.
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
    """Moves inputs above a size from their jobs to the store."""

    def __init__(self, blobs: Blobs | None, larger_than: int) -> None:
        """With a store of None every job keeps its input."""
        self._blobs = blobs
        self._larger_than = larger_than
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def concern(self, job: Job) -> bool:
        """Whether the job's input is to be moved to the store."""
        return (
            self._blobs is not None
            and job.blob is not None
            and len(job.blob) > self._larger_than
            and job.blob != STORED
        )

    async def put_aside(self, job: Job) -> Job:
        """Store the input; returns the job to publish. Raises InputStoreUnavailable."""
        if self._blobs is None or job.blob is None or not self.concern(job):
            return job
        async with self._slots:
            await self._blobs.put(job.id, job.blob)
        return replace(job, blob=STORED)

    async def put_all_aside(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Store the inputs of many jobs; raises InputStoreUnavailable where one fails."""
        if self._blobs is None or not any(map(self.concern, jobs)):
            return jobs
        return await asyncio.gather(*map(self.put_aside, jobs))

    async def drop(self, jobs: Sequence[Job]) -> None:
        """Delete the inputs of jobs that were not enqueued."""
        ids = [job.id for job in jobs if job.blob == STORED]
        if ids and self._blobs is not None:
            with suppress(InputStoreUnavailable):
                await self._blobs.delete(ids)

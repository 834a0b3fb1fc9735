"""Puts the jobs of a batch's lines into their lanes, as far as its window allows.

A job's id is made of the batch and the line, and a known id is enqueued no second time: so whoever
takes a batch over from a courier that died feeds the lines anew from where the files end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import redis.asyncio
from redis.exceptions import OutOfMemoryError

from common.errors import Refused
from common.jobs.enqueue import PLACED, enqueue_args, positions
from common.jobs.job import Job
from common.redis.keys import blob_key
from common.redis.scripts import AsyncScripts, set_large
from common.settings import Settings
from worker.courier.batches.pace import Pace

_LARGE_BYTES = 256 * 1024
_EXPIRE_SECONDS = 300
_BYTES_PER_CALL = 2 * 1024 * 1024
JOBS_PER_CALL = 100


class Feeder:
    """Enqueues jobs; what a full lane or a full Redis refuses waits here and is sent first."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings, pace: Pace) -> None:
        self._client = client
        self._pace = pace
        self._scripts = AsyncScripts(client)
        self._settings = settings
        self.refused: list[Job] = []

    async def send(self, jobs: Sequence[Job]) -> None:
        """Enqueue these; may raise RedisError, and then some may have been."""
        first = 0
        while first < len(jobs):
            last, size = first, 0
            while last < len(jobs) and last - first < JOBS_PER_CALL and size < _BYTES_PER_CALL:
                size += jobs[last].sent_bytes
                last += 1
            await self._send(jobs[first:last])
            first = last

    async def send_refused(self) -> None:
        """Try once more what was refused."""
        jobs, self.refused = self.refused, []
        try:
            await self.send(jobs)
        except BaseException:
            self.refused = jobs
            raise

    async def _send(self, jobs: Sequence[Job]) -> None:
        try:
            await self._enqueue(jobs)
        except OutOfMemoryError:  # results are collected meanwhile, which makes room
            self.refused += jobs

    async def _enqueue(self, jobs: Sequence[Job]) -> None:
        placed = [await self._place(job) for job in jobs]
        settings = self._settings
        args: Any = enqueue_args(
            placed, settings.max_backlog, settings.tenant_window_jobs, settings.list_max_count
        )
        async with self._pace.turn():
            reply = await self._scripts.run("enqueue", (), args)
        for job, outcome in zip(jobs, positions(jobs, reply), strict=True):
            if isinstance(outcome, Refused):
                self.refused.append(job)

    async def _place(self, job: Job) -> Job:
        """Write a large input before its job: in a script it would hold Redis up."""
        if job.blob is None or len(job.blob) <= _LARGE_BYTES:
            return job
        options = ("NX", "EX", str(_EXPIRE_SECONDS))
        await set_large(self._client, blob_key(job.id), job.blob, options)
        return replace(job, blob=PLACED)

"""Cancels jobs whose readers have left, beside the request: that one is being ended itself."""

from __future__ import annotations

import asyncio

from redis.exceptions import RedisError

from api.jobs.store import JobStore
from common.redis.trouble import TROUBLE


class UnreadJobs:
    """The jobs of a process that nobody reads any more."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()

    def cancel(self, job_id: str) -> None:
        """Have a job canceled; one that is settled stays as it is."""
        task = asyncio.create_task(self._cancel(job_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel(self, job_id: str) -> None:
        try:
            await self._store.cancel(job_id)
        except RedisError as exc:  # it runs to its end, for nobody
            TROUBLE.note("cancelling a job that nobody reads", exc)

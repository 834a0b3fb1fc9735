"""Publishes jobs from the event loop, many per round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from operator import attrgetter
from typing import TypeVar

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.background.coalescer import Coalescer
from api.jobs.large_inputs import LargeInputs
from api.jobs.placed_inputs import concerns, place, take_back
from api.overload.queue_guard import QueueGuard
from common.errors import Refused
from common.jobs.enqueue import enqueue_args, positions, quotas
from common.jobs.job import Job
from common.jobs.quota import Quota
from common.redis.keys import blob_key
from common.redis.scripts import Args, AsyncScripts
from common.settings import DEFAULT_LIST_MAX, DEFAULT_WINDOW

T = TypeVar("T")

_RETRY_PAUSES_SECONDS = (0.05, 0.2, 0.5, 1.0)
_JOBS_PER_CALL = 500
_BLOB, _SENT_BYTES = attrgetter("blob"), attrgetter("sent_bytes")
_BYTES_PER_CALL = 2 * 1024 * 1024
"""A message is up to twice as large as what was sent. Redis serves nobody else while a script
copies them, and the event loop nobody while they are built."""
_MAX_IN_PROGRESS = 2
"""Most concurrent script calls."""
_TENANTS_KNOWN = 10_000


class Publisher:
    """Publishes jobs in batches formed by a Coalescer."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        max_backlog: int,
        large_inputs: LargeInputs | None = None,
        window: int = DEFAULT_WINDOW,
        guard: QueueGuard | None = None,
        list_max: int = DEFAULT_LIST_MAX,
    ) -> None:
        self._large_inputs = large_inputs or LargeInputs(None, 0)
        self._client = client
        self._scripts = AsyncScripts(client)
        self._guard = guard or QueueGuard()
        self._guard.on_refusal = self._on_refusal
        self._max_backlog = max_backlog
        self._window, self._list_max = window, list_max
        self.quotas: dict[str, Quota] = {}
        """The remaining quota of each rate-limited tenant at its last submit."""
        self._jobs: Coalescer[Job, int] = Coalescer(
            self._publish,
            max_items=_JOBS_PER_CALL,
            max_in_progress=_MAX_IN_PROGRESS,
            max_bytes=_BYTES_PER_CALL,
            size_bytes=_bytes_of,
            on_failure=self._guard.publish_failed,
        )

    async def publish(self, job: Job) -> int:
        """Publish one job; returns the backlog ahead of it, or raises Refused.

        Raises InputStoreUnavailable where its input could not be stored.
        """
        if self._large_inputs.concern(job):
            return await self._publish_large(job)
        return await (self._submit(job) if concerns(job) else self._jobs.submit(job))

    async def _submit(self, job: Job) -> int:
        (placed,) = await self._placed([job])
        try:
            return await self._jobs.submit(placed)
        except Refused:
            if placed is not job:
                await take_back(self._client, job)
            raise

    async def _placed(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """The jobs, whose large inputs are in Redis."""
        if not any(map(concerns, jobs)):
            return jobs
        return await self._patiently(lambda: place(self._client, jobs))

    async def _publish_large(self, job: Job) -> int:
        job = await self._large_inputs.put_aside(job)
        try:
            return await self._submit(job)
        except Refused:
            # Unless a concurrent submit of the same job was accepted under this id.
            if not await self._client.exists(blob_key(job.id)):
                await self._large_inputs.drop([job])
            raise

    async def publish_all(self, jobs: Sequence[Job]) -> list[int | Refused]:
        """Publish these, in one call unless they are large; returns per job the backlog ahead of
        it, or Refused.
        """
        jobs = await self._large_inputs.put_all_aside(jobs)
        try:
            light = not any(map(_BLOB, jobs)) and sum(map(_SENT_BYTES, jobs)) <= _BYTES_PER_CALL
            outcomes = await (self._publish(jobs) if light else self._publish_large_ones(jobs))
        except RedisError as exc:
            self._guard.publish_failed(exc)
            raise
        refused = [job for job, one in zip(jobs, outcomes, strict=True) if isinstance(one, Refused)]
        if refused:
            await self._large_inputs.drop(refused)
        return outcomes

    async def _publish_large_ones(self, jobs: Sequence[Job]) -> list[int | Refused]:
        outcomes: list[int | Refused] = []
        for part in _parts(jobs):
            placed = await self._placed(part)
            outcomes += await self._publish(placed)
            for job, outcome in zip(part, outcomes[-len(part) :], strict=True):
                if isinstance(outcome, Refused) and concerns(job):
                    await take_back(self._client, job)
        return outcomes

    async def _publish(self, jobs: Sequence[Job]) -> list[int | Refused]:
        return self._read(jobs, await self._enqueue(jobs))

    def _read(self, jobs: Sequence[Job], reply: Sequence[int]) -> list[int | Refused]:
        if len(reply) > len(jobs):
            for tenant, quota in quotas(jobs, reply).items():
                self.quotas.pop(tenant, None)
                self.quotas[tenant] = quota
            while len(self.quotas) > _TENANTS_KNOWN:
                del self.quotas[next(iter(self.quotas))]
        return positions(jobs, reply)

    async def _enqueue(self, jobs: Sequence[Job]) -> Sequence[int]:
        """Publish; retried after a lost connection, as the script accepts an id only once."""
        args: Args = enqueue_args(jobs, self._max_backlog, self._window, self._list_max)
        reply: Sequence[int] = await self._patiently(lambda: self._scripts.run("enqueue", (), args))
        return reply

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        for pause in _RETRY_PAUSES_SECONDS:
            try:
                return await call()
            except (RedisConnectionError, RedisTimeoutError, ReadOnlyError):
                if self._guard.refusal is not None:
                    raise
                await asyncio.sleep(pause)
        return await call()

    def _on_refusal(self, silent: bool) -> None:
        """Fail the queued submits at once when the queue begins to refuse work.

        Where Redis does not answer, submits that were already sent fail with a timeout: their
        jobs may have been enqueued.
        """
        self._jobs.fail_waiting(self._guard.refused)
        if silent:
            self._jobs.fail_in_progress(lambda: RedisTimeoutError("no answer from the queue"))


def _bytes_of(job: Job) -> int:
    """Of the call that publishes it: a large input is written before."""
    if job.blob is None:
        return job.sent_bytes
    return 0 if concerns(job) else len(job.blob)


def _parts(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    first = size = 0
    for at, job in enumerate(jobs):
        size += _bytes_of(job)
        if size > _BYTES_PER_CALL and at > first:
            yield jobs[first:at]
            first, size = at, _bytes_of(job)
    yield jobs[first:]

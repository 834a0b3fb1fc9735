"""Publish jobs from the event loop, many to a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.jobs.large_inputs import LargeInputs
from api.overload.queue_guard import QueueGuard
from common.errors import Refused
from common.jobs.enqueue import enqueue_args, positions, quotas
from common.jobs.job import Job
from common.jobs.quota import Quota
from common.redis.keys import blob_key
from common.redis.scripts import Args, AsyncScripts
from common.settings import DEFAULT_LIST_MAX, DEFAULT_WINDOW

_RETRY_PAUSES_SECONDS = (0.05, 0.2, 0.5, 1.0)
_JOBS_PER_TRIP = 500
_BLOB_BYTES_PER_TRIP = 8 * 1024 * 1024
_TRIPS = 2
"""Round trips under way at a time."""
_TENANTS_KNOWN = 10_000


class Publisher:
    """Publishes from an event loop, in batches that form by themselves.

    While as many trips are out as may be, what arrives waits for the next
    one to leave: the busier the loop, the more jobs share a trip's cost.
    """

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
        """What was left to each tenant with a limited rate when it last sent something."""
        self._waiting: list[tuple[Job, asyncio.Future[int]]] = []
        self._called = False
        self._trips: dict[asyncio.Task[None], list[tuple[Job, asyncio.Future[int]]]] = {}
        """Those under way, and who waits for each."""

    async def publish(self, job: Job) -> int:
        """Publish one job; returns the backlog ahead of it, or raises Refused.

        Raises InputStoreUnavailable where its input could not be put where it belongs.
        """
        if self._large_inputs.concern(job):
            return await self._publish_large(job)
        return await self._board(job)

    async def _publish_large(self, job: Job) -> int:
        job = await self._large_inputs.put_aside(job)
        try:
            return await self._board(job)
        except Refused:
            # Not where the same submit, sent a moment before, was taken under this id.
            if not await self._client.exists(blob_key(job.id)):
                await self._large_inputs.drop([job])
            raise

    async def _board(self, job: Job) -> int:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._waiting.append((job, future))
        if not self._called and len(self._trips) < _TRIPS:
            self._called = True
            loop.call_soon(self._depart)
        return await future

    async def publish_all(self, jobs: Sequence[Job]) -> list[int | Refused]:
        """Publish these in one round trip; per job the backlog ahead of it, or Refused."""
        jobs = await self._large_inputs.put_all_aside(jobs)
        try:
            outcomes = self._read(jobs, await self._enqueue(jobs))
        except RedisError as exc:
            self._guard.publish_failed(exc)
            raise
        refused = [job for job, one in zip(jobs, outcomes, strict=True) if isinstance(one, Refused)]
        if refused:
            await self._large_inputs.drop(refused)
        return outcomes

    def _read(self, jobs: Sequence[Job], reply: Sequence[int]) -> list[int | Refused]:
        if len(reply) > len(jobs):
            for tenant, quota in quotas(jobs, reply).items():
                self.quotas.pop(tenant, None)
                self.quotas[tenant] = quota
            while len(self.quotas) > _TENANTS_KNOWN:
                del self.quotas[next(iter(self.quotas))]
        return positions(jobs, reply)

    async def _enqueue(self, jobs: Sequence[Job]) -> Sequence[int]:
        """Publish; a lost connection is tried again, as the script takes an id only once."""
        args: Args = enqueue_args(jobs, self._max_backlog, self._window, self._list_max)
        for pause in _RETRY_PAUSES_SECONDS:
            try:
                reply: Sequence[int] = await self._scripts.run("enqueue", (), args)
            except (RedisConnectionError, RedisTimeoutError, ReadOnlyError):
                if self._guard.refusal is not None:
                    raise
                await asyncio.sleep(pause)
            else:
                return reply
        last: Sequence[int] = await self._scripts.run("enqueue", (), args)
        return last

    def _on_refusal(self, silent: bool) -> None:
        """The queue takes nothing: nobody need wait for it.

        Where it is silent, those who have been sent to it hear what is known: that their jobs
        may have been taken.
        """
        assert self._guard.refusal is not None
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(self._guard.refusal(self._guard.text))
        for _, future in chain(*self._trips.values()) if silent else ():
            if not future.done():
                future.set_exception(RedisTimeoutError("no answer from the queue"))

    def _depart(self) -> None:
        """Send what waits, as far as trips are free; the end of one calls again."""
        self._called = False
        while self._waiting and len(self._trips) < _TRIPS:
            aboard = next(_parts([job for job, _ in self._waiting]))
            passengers = self._waiting[: len(aboard)]
            self._waiting = self._waiting[len(aboard) :]
            trip = asyncio.get_running_loop().create_task(self._travel(aboard, passengers))
            self._trips[trip] = passengers
            trip.add_done_callback(self._arrived)

    def _arrived(self, trip: asyncio.Task[None]) -> None:
        self._trips.pop(trip, None)
        if self._waiting and not self._called:
            self._depart()

    async def _travel(
        self, jobs: Sequence[Job], passengers: list[tuple[Job, asyncio.Future[int]]]
    ) -> None:
        try:
            outcomes = self._read(jobs, await self._enqueue(jobs))
        except Exception as exc:  # noqa: BLE001 - every waiter must hear of it
            for _, future in passengers:
                if not future.done():
                    future.set_exception(exc)
            self._guard.publish_failed(exc)
            return
        for (_, future), outcome in zip(passengers, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Refused):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def _parts(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Cut into what one script call should carry, by count and by size of the large inputs."""
    first, size = 0, 0
    for index, job in enumerate(jobs):
        size += len(job.blob or b"")
        if index - first >= _JOBS_PER_TRIP or (size > _BLOB_BYTES_PER_TRIP and index > first):
            yield jobs[first:index]
            first, size = index, len(job.blob or b"")
    yield jobs[first:]

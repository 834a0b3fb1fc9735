"""Waits until jobs are settled, without polling.

All waiters of a process share one subscription connection. A waiter first subscribes to its
channel, then reads the record, then sleeps: in that order no result can be missed, and it is
repeated after the connection was lost. The notification carries the whole result.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from typing import TypeVar

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.jobs.arrivals import Arrivals
from api.jobs.store import JobStore
from api.jobs.subscriptions import PING_SECONDS, Subscriptions
from common.jobs.record import JobRecord, JobState
from common.redis.keys import META_PREFIX, meta_key

T = TypeVar("T")

_RETRY_SECONDS = 0.2
_DEAF_LOOK_SECONDS = 0.1
"""How often a waiter looks where the server lets nobody subscribe to results."""
_LOOK_AFTER_SECONDS = 0.02
"""After this time a waiter reads the record too, in case its subscription missed the result."""


class ResultWaiter:
    """Wakes waiters when their job is settled; one connection for all of them."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        store: JobStore,
        keepalive_seconds: float = PING_SECONDS,
        outage_seconds: float = 5.0,
    ) -> None:
        """keepalive_seconds is how long its connection may be silent, if less than its own time;
        outage_seconds how long Redis may be unavailable before who waits gets the error.
        """
        self._outage_seconds = outage_seconds
        self._store = store
        self._waiters: dict[str, set[asyncio.Future[JobRecord | None]]] = defaultdict(set)
        self._subscriptions = Subscriptions(
            *(client, keepalive_seconds, self._hear, self._look_again),
            is_wanted=lambda channel: channel.removeprefix(META_PREFIX) in self._waiters,
            during="listening for results",
            instead=f"results are looked for every {_DEAF_LOOK_SECONDS:g} s instead",
        )
        self.draining = False
        """Whether nobody is to wait any more."""

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return sum(map(len, self._waiters.values()))

    def start(self) -> None:
        """Start listening, in the running event loop."""
        self._subscriptions.start()

    async def stop(self) -> None:
        """Stop listening; remaining waiters get the current record."""
        await self._subscriptions.stop()
        self.drain()

    def drain(self) -> None:
        """Release all current and future waiters with the current record."""
        self.draining = True
        self._subscriptions.release()
        self._wake_all()

    async def wait(
        self, job_id: str, seconds: float, begin: Awaitable[object] | None = None
    ) -> JobRecord | None:
        """The record once it is terminal, or the current one after `seconds`.

        begin, when given, publishes the job; it is awaited while subscribed, so that the result
        of a quick job arrives as a notification and the record need not be read.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        future = self._listen_for(job_id)
        try:
            await self._subscriptions.subscribe(meta_key(job_id))
            if begin is not None:
                begun = await begin
                if isinstance(begun, JobRecord) and begun.state.terminal:
                    return begun
                await asyncio.wait({future}, timeout=min(seconds, _LOOK_AFTER_SECONDS))
            while True:
                record = future.result() if future.done() else None
                if record is not None:
                    return record
                if future.done():  # woken without a record: the connection was lost
                    self._waiters[job_id].discard(future)
                    future = self._listen_for(job_id)
                sure = await self._confirm([job_id], deadline - loop.time())
                record = await self._patiently(lambda: self._store.get(job_id), deadline)
                left = deadline - loop.time()
                if record is None or record.state.terminal or left <= 0 or self.draining:
                    return record
                if sure:
                    await asyncio.wait({future}, timeout=left)
        finally:
            self._dismiss(job_id, future)

    async def watch(
        self,
        ids: Sequence[str],
        seconds: float,
        begin: Awaitable[Collection[str]] | None = None,
    ) -> AsyncGenerator[list[JobRecord], None]:
        """Yield these jobs' records as they are settled, those that arrive together in one list.

        Ends when all are settled, or after `seconds`; unknown jobs are left out. begin is as for
        `wait`, and returns the ids that need no waiting. One subscription and one read of the
        records serve all of them.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        arrivals = Arrivals()
        waiting = {job_id: self._listen_for(job_id, arrivals) for job_id in ids}
        try:
            await self._subscriptions.subscribe(*map(meta_key, waiting))
            look_at = loop.time()
            if begin is not None:
                for job_id in await begin:
                    self._dismiss(job_id, waiting.pop(job_id))
                look_at = loop.time() + _LOOK_AFTER_SECONDS
            while waiting:
                await arrivals.wait(min(look_at, deadline) - loop.time())
                settled, deaf = arrivals.take()
                for job_id in deaf & waiting.keys():
                    self._waiters[job_id].discard(waiting[job_id])
                    waiting[job_id] = self._listen_for(job_id, arrivals)
                over = loop.time() >= deadline or self.draining
                if deaf or over or loop.time() >= look_at:
                    sure = await self._confirm(waiting, deadline - loop.time())
                    look_at = math.inf if sure else loop.time()
                    settled += await self._look(list(waiting), settled, deadline)
                news = [record for record in settled if record.id in waiting]
                for record in news:
                    self._dismiss(record.id, waiting.pop(record.id))
                if news:
                    yield [record for record in news if record.state.terminal]
                if over:
                    return
        finally:
            for job_id, future in waiting.items():
                self._dismiss(job_id, future)

    async def _look(
        self, ids: list[str], known: list[JobRecord], deadline: float
    ) -> list[JobRecord]:
        """Read the records; returns those that are settled, without the ones already known to be.

        An unknown job is returned as queued without a lane, so that the caller leaves it out.
        """
        settled = {record.id for record in known}
        left = [job_id for job_id in ids if job_id not in settled]
        records = await self._patiently(lambda: self._store.get_many(left), deadline)
        found = [
            record or JobRecord(job_id, JobState.QUEUED, "")
            for job_id, record in zip(left, records, strict=True)
        ]
        return [record for record in found if record.state.terminal or not record.lane]

    async def _patiently(self, look: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Call `look`, retrying while Redis is briefly unavailable; raises its error after that."""
        loop = asyncio.get_running_loop()
        give_up = min(loop.time() + self._outage_seconds, deadline)
        while True:
            try:
                return await look()
            except (RedisConnectionError, RedisTimeoutError):
                if self.draining or loop.time() + _RETRY_SECONDS > give_up:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    def _dismiss(self, job_id: str, future: asyncio.Future[JobRecord | None]) -> None:
        """Remove one waiter of a job; with the last one the subscription ends."""
        self._waiters[job_id].discard(future)
        if not self._waiters[job_id]:
            del self._waiters[job_id]
            self._subscriptions.leave(meta_key(job_id))

    def _listen_for(
        self, job_id: str, arrivals: Arrivals | None = None
    ) -> asyncio.Future[JobRecord | None]:
        future: asyncio.Future[JobRecord | None] = asyncio.get_running_loop().create_future()
        self._waiters[job_id].add(future)
        if arrivals is not None:
            arrivals.expect(job_id, future)
        return future

    async def _confirm(self, ids: Iterable[str], seconds: float) -> bool:
        """Wait for the confirmation of these subscriptions; whether all are confirmed in time."""
        if self.draining:
            return True
        sure = await self._subscriptions.confirm(map(meta_key, ids), seconds)
        if not sure and self._subscriptions.is_deaf:
            await asyncio.sleep(max(0.0, min(seconds, _DEAF_LOOK_SECONDS)))
        return sure

    def _look_again(self) -> None:
        """The connection was lost; where we may not subscribe, waiters look by themselves."""
        if not self._subscriptions.is_deaf:
            self._wake_all()

    def _hear(self, channel: str, message: bytes) -> None:
        self._on_result(channel.removeprefix(META_PREFIX), message)

    def _on_result(self, job_id: str, meta: bytes) -> None:
        """Wake the waiters of a job. Any client may publish here, so a message that cannot be read
        only makes them read the record.
        """
        try:
            record = JobRecord.read(job_id, None, meta)
        except (ValueError, KeyError, TypeError, AttributeError):
            record = None
        if record is None or record.state.terminal:
            self._wake(job_id, record)

    def _wake(self, job_id: str, record: JobRecord | None) -> None:
        for future in self._waiters.get(job_id, ()):
            if not future.done():
                future.set_result(record)

    def _wake_all(self) -> None:
        for job_id in list(self._waiters):
            self._wake(job_id, None)

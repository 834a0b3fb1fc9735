"""Reports the progress of jobs to many streams, at the cost of one.

The end of a job arrives through the subscription that all waiters of the process share. Its
start is not announced, as that would cost every job a message for the few that are watched:
while there are streams, one poll reads the records of all watched jobs.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.exceptions import RedisError

from api.jobs.store import JobStore
from api.jobs.waiter import ResultWaiter
from common.jobs.record import JobRecord
from common.redis.trouble import TROUBLE

log = structlog.get_logger(__name__)

_LONGEST_SECONDS = 7 * 86_400.0


class Watch:
    """One stream's watch of one job: the latest record not yet read.

    It has one reader, and one timer for all its waits: a stream waits once for each token, and a
    timer for each wait costs as much as the token's encoding.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._record: JobRecord | None = None
        self._has_changed = False
        self._wait: asyncio.Future[bool] | None = None
        self._until = 0.0
        """When the wait ends without a change, on the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self.gone = False
        """Whether the job's record no longer exists."""

    def put(self, record: JobRecord | None) -> None:
        """Set a changed record; None when it is gone. An open record after a terminal one is stale
        and ignored.
        """
        if self._record and self._record.state.terminal and record and not record.state.terminal:
            return
        self._record, self.gone = record, record is None
        self.wake()

    def wake(self) -> None:
        """End a wait for a change, as there is something else to look at."""
        self._has_changed = True
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(True)

    def close(self) -> None:
        """End its timer."""
        if self._timer is not None:
            self._timer.cancel()

    async def change(self, seconds: float) -> bool:
        """Wait until the record changes, or `wake` is called; False after this many seconds."""
        if not self._has_changed:
            self._until = self._loop.time() + seconds
            if self._timer is None or self._timer.when() > self._until:
                self.close()
                self._timer = self._loop.call_at(self._until, self._ring)
            self._wait = self._loop.create_future()
            try:
                if not await self._wait:
                    return False
            finally:
                self._wait = None
        self._has_changed = False
        return True

    @property
    def latest(self) -> JobRecord | None:
        """The record as last changed; None where it has not since the watch began, or is gone."""
        return self._record

    def _ring(self) -> None:
        """The timer of a wait, by now perhaps of a later one: then it is set again."""
        self._timer = None
        if self._wait is None or self._wait.done():
            return
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._ring)
        else:
            self._wait.set_result(False)


class JobWatches:
    """All watches of the process."""

    def __init__(self, store: JobStore, waiter: ResultWaiter, poll_seconds: float) -> None:
        self._store = store
        self._waiter = waiter
        self._poll_seconds = poll_seconds
        self._watches: dict[str, set[Watch]] = defaultdict(set)
        self._seen: dict[str, bytes | None] = {}
        self._poller: asyncio.Task[None] | None = None

    @property
    def watching(self) -> int:
        """Number of watches."""
        return sum(map(len, self._watches.values()))

    @asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[Watch]:
        """Watch a job; the caller reads its initial record inside the context."""
        watch = Watch()
        self._watches[job_id].add(watch)
        end = asyncio.create_task(self._await_end(job_id, watch))
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll(), name="watch-poller")
        try:
            yield watch
        finally:
            watch.close()
            end.cancel()
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]
                self._seen.pop(job_id, None)

    async def _await_end(self, job_id: str, watch: Watch) -> None:
        try:
            watch.put(await self._waiter.wait(job_id, _LONGEST_SECONDS))
        except RedisError as exc:  # the poller finds the end as well
            TROUBLE.note("watching a job", exc)

    async def _poll(self) -> None:
        """Read all watched records at once, while there are watches."""
        while self._watches:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._look()
            except RedisError as exc:
                TROUBLE.note("watching jobs", exc)
            except Exception:
                log.exception("watch_poll_failed")
        self._poller = None

    async def _look(self) -> None:
        ids = list(self._watches)
        for job_id, text in zip(ids, await self._store.live_records(ids), strict=True):
            if job_id not in self._watches or self._seen.get(job_id, b"") == text:
                continue
            settled = text is None or text.startswith(b"x")
            record = (
                await self._store.get(job_id) if settled else JobRecord.read(job_id, text, None)
            )
            if job_id not in self._watches:  # its last stream ended meanwhile
                continue
            self._seen[job_id] = text
            for watch in self._watches[job_id]:
                watch.put(record)

"""Fetches inputs that are neither in the message nor in Redis: from a URL, or the blob store.

One thread with an event loop, so that a server that hangs delays only its own job: neither the
decode pool, nor the reserver, nor the device. A fetched input is processed as if it had been in
the message.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any
from weakref import WeakValueDictionary

import structlog

from common.errors import FleetError, InputStoreUnavailable, InputUrlFailed
from common.inputs.blobs import Blobs
from common.inputs.checks import BLOB_REFERENCE
from common.settings import FetchSettings
from worker.inputs.url_inputs import UrlInputs
from worker.jobs.execution import Execution, Hold
from worker.lanes.lane import Lane

log = structlog.get_logger(__name__)

_STORE_RETRY_MS = 5_000


class InputFetcher:
    """Fetches the inputs of executions; delivers each execution once, fetched or failed."""

    def __init__(
        self, settings: FetchSettings, blobs: Blobs | None, tenant_share: float = 1.0
    ) -> None:
        self._urls = UrlInputs(settings)
        self._blobs = blobs
        self._deliver: Callable[[Lane, Execution], None] = lambda _lane, _execution: None
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(settings.fetch_concurrency)
        self._each = max(1, int(settings.fetch_concurrency * tenant_share))
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="fetcher", daemon=True)

    def start(self, deliver: Callable[[Lane, Execution], None]) -> None:
        """Start the thread; deliver is called on the fetcher's own thread."""
        self._deliver = deliver
        self._thread.start()

    def stop(self) -> None:
        """End the thread; executions whose input is being fetched are not delivered."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)

    def request(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """Fetch the inputs of these, each independently."""
        for execution in executions:
            self._loop.call_soon_threadsafe(self._begin, self._serve(lane, execution))

    def discard(self, job_ids: Sequence[str]) -> None:
        """Delete the stored inputs of settled jobs; the sweeper deletes those that this misses."""
        if job_ids and self._blobs is not None:
            self._loop.call_soon_threadsafe(self._begin, self._discard(self._blobs, job_ids))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, lane: Lane, execution: Execution) -> None:
        try:
            async with self._share_of(execution.tenant), self._slots:
                if execution.disposition is None:
                    await self._fetch(execution)
        except InputStoreUnavailable as exc:
            # The job is not at fault: it is retried until the store is back, uncounted.
            if execution.disposition is None:
                execution.disposition, execution.error = Hold(_STORE_RETRY_MS), exc
        except FleetError as exc:
            execution.fail("decode", exc)
        except Exception as exc:
            log.exception("fetch_failed", job_id=execution.job_id)
            error = InputUrlFailed("`input_url`: fetching it failed")
            error.__cause__ = exc
            execution.fail("decode", error)
        self._deliver(lane, execution)

    def _share_of(self, tenant: str) -> AbstractAsyncContextManager[None]:
        """What bounds the tenant, so that servers that hang for it leave slots to others."""
        if not tenant:
            return nullcontext()
        return self._shares.setdefault(tenant, asyncio.Semaphore(self._each))

    async def _fetch(self, execution: Execution) -> None:
        if execution.input_url is not None:
            execution.blob = await self._urls.fetch(execution.input_url)
        elif self._blobs is None:
            log.error("blob_url_is_not_set", job_id=execution.job_id)
            raise InputStoreUnavailable("this worker does not know where large inputs are kept")
        else:
            execution.blob = await self._blobs.get(execution.job_id)
        execution.value = BLOB_REFERENCE

    async def _discard(self, blobs: Blobs, job_ids: Sequence[str]) -> None:
        try:
            await blobs.delete(job_ids)
        except FleetError:
            log.warning("inputs_left_to_the_sweep", jobs=len(job_ids))

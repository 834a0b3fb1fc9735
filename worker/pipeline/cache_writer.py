"""Writes results into the cache, on a thread of its own so that the finisher never waits for it.

A write that fails is dropped: the next job with that input runs the model, which is the
highest cost that a cache failure may have. Results arrive here only after the holder of
the lease has published them, and are written only where the weights digest of the model
that produced them is the one in the job's cache key.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
from redis import Redis
from redis.exceptions import RedisError

from common.jobs.cache_entry import Entry, pack
from common.redis.keys import cache_key
from worker.jobs.execution import Execution
from worker.lanes.lane import Lane
from worker.models.base import Model
from worker.pipeline.finisher import Published
from worker.residency.residency import Resident

log = structlog.get_logger(__name__)

_MAX_WAITING_BYTES = 64 * 2**20
_WRITES_PER_CALL = 256
_PAUSE_SECONDS = 0.5


class CacheWrite(NamedTuple):
    """One pending cache write."""

    key: str
    entry: Entry
    seconds: int


class CacheWriter:
    """Writes cache entries on one thread with a connection of its own."""

    def __init__(self, client: Redis, loaded_as: Callable[[Model | None], Resident | None]) -> None:
        """loaded_as maps a handler to its resident model, or to None once it was unloaded."""
        self._client = client
        self._loaded_as = loaded_as
        self._queue: queue.SimpleQueue[Sequence[CacheWrite] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._thread = threading.Thread(target=self._run, name="cache-writer", daemon=True)
        self.stored = 0
        """Written by its thread."""
        self.dropped = 0
        """Written under the lock."""

    def start(self) -> None:
        """Start the writing thread."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Write the queued results, for at most this long."""
        self._queue.put(None)
        self._thread.join(seconds)

    def offer(self, published: Published) -> None:
        """Queue the cacheable results of a published group; a listener of the finisher."""
        writes = [
            write
            for execution in published.finished
            if execution.result and (write := self._write_of(published.lane, execution))
        ]
        if writes:
            self.submit(writes)

    def submit(self, writes: Sequence[CacheWrite]) -> None:
        """Queue these writes; they are dropped when the queue would exceed its limit in bytes."""
        size = _bytes_of(writes)
        with self._lock:
            if self._waiting_bytes + size > _MAX_WAITING_BYTES:
                self.dropped += len(writes)
                return
            self._waiting_bytes += size
        self._queue.put(writes)

    def _write_of(self, lane: Lane, execution: Execution) -> CacheWrite | None:
        model = self._loaded_as(execution.handler)
        if model is None or model.weights_digest != execution.weights:
            return None
        spec, now_ms = model.spec, int(lane.server_time() * 1000)
        entry = Entry(execution.result, now_ms, spec.version, execution.weights)
        key = cache_key(spec.name, execution.digest)
        return CacheWrite(key, entry, spec.keeps_results_seconds)

    def _run(self) -> None:
        while (writes := self._queue.get()) is not None:
            try:
                for first in range(0, len(writes), _WRITES_PER_CALL):
                    self._write(writes[first : first + _WRITES_PER_CALL])
            except Exception:
                log.exception("cache_write_lost_to_a_fault_of_ours")
            with self._lock:
                self._waiting_bytes -= _bytes_of(writes)

    def _write(self, writes: Sequence[CacheWrite]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for key, entry, seconds in writes:
            pipe.set(key, pack(key, entry), ex=seconds)
        try:
            pipe.execute()
        except RedisError as exc:
            with self._lock:
                self.dropped += len(writes)
            log.warning("cache_write_failed", results=len(writes), error=str(exc))
            time.sleep(_PAUSE_SECONDS)
        else:
            self.stored += len(writes)


def _bytes_of(writes: Sequence[CacheWrite]) -> int:
    return sum(len(one.entry.result) for one in writes)

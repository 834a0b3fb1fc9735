"""Writes results into the cache, beside the finisher so that it never waits for it.

What cannot be written is dropped: the next job with that input runs, which
is all that a cache may cost. Results arrive here only after they were
published by the holder of the lease, and are written only where the model that
made them is the one that the front meant.
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
from common.redis.trouble import TROUBLE
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
    """A result on its way into the cache."""

    key: str
    entry: Entry
    seconds: int


class CacheWriter:
    """One thread with a connection of its own."""

    def __init__(self, client: Redis, loaded_as: Callable[[Model | None], Resident | None]) -> None:
        """loaded_as says which model a handler is, None once it was unloaded."""
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
        """Begin to write."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Write what waits, for at most this long."""
        self._queue.put(None)
        self._thread.join(seconds)

    def offer(self, published: Published) -> None:
        """Write what may be cached of these; a listener of the finisher."""
        writes = [
            write
            for execution in published.finished
            if execution.result and (write := self._write_of(published.lane, execution))
        ]
        if writes:
            self.submit(writes)

    def submit(self, writes: Sequence[CacheWrite]) -> None:
        """Write these; dropped when too much waits already."""
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
            TROUBLE.note("keeping results", exc)
            time.sleep(_PAUSE_SECONDS)
        else:
            self.stored += len(writes)


def _bytes_of(writes: Sequence[CacheWrite]) -> int:
    return sum(len(one.entry.result) for one in writes)

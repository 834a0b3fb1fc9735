"""Keeps results for the same input, beside the finisher so that it never waits for the cache.

What cannot be written is dropped: the next job with that input runs, which
is all that a cache may cost. Results arrive here only after they were
published by the holder of the lease (see Finisher).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from redis import Redis
from redis.exceptions import RedisError

from common.jobs.cache_entry import Entry, pack

log = structlog.get_logger(__name__)

_MAX_WAITING_BYTES = 64 * 2**20
_WRITES_PER_TRIP = 256
_PAUSE_SECONDS = 0.5


class Kept(NamedTuple):
    """A result on its way into the cache."""

    key: str
    entry: Entry
    seconds: int


class CacheWriter:
    """One thread with a connection of its own."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._queue: queue.SimpleQueue[Sequence[Kept] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._thread = threading.Thread(target=self._run, name="cache-writer", daemon=True)
        self.stored = 0
        self.dropped = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Write what waits, for at most this long."""
        self._queue.put(None)
        self._thread.join(seconds)

    def put(self, kept: Sequence[Kept]) -> None:
        """Keep these; dropped when too much waits already."""
        size = _bytes_of(kept)
        with self._lock:
            if self._waiting_bytes + size > _MAX_WAITING_BYTES:
                self.dropped += len(kept)
                return
            self._waiting_bytes += size
        self._queue.put(kept)

    def _run(self) -> None:
        while (kept := self._queue.get()) is not None:
            try:
                for first in range(0, len(kept), _WRITES_PER_TRIP):
                    self._write(kept[first : first + _WRITES_PER_TRIP])
            except Exception:
                log.exception("cache_write_lost_to_a_fault_of_ours")
            with self._lock:
                self._waiting_bytes -= _bytes_of(kept)

    def _write(self, kept: Sequence[Kept]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for key, entry, seconds in kept:
            pipe.set(key, pack(key, entry), ex=seconds)
        try:
            pipe.execute()
        except RedisError as exc:
            self.dropped += len(kept)
            log.warning("cache_write_failed", results=len(kept), error=str(exc))
            time.sleep(_PAUSE_SECONDS)
        else:
            self.stored += len(kept)


def _bytes_of(kept: Sequence[Kept]) -> int:
    return sum(len(one.entry.result) for one in kept)

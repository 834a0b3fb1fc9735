"""Decodes inputs on threads that are replaced when a decode hangs.

A thread cannot be stopped. One that spends longer than the limit in a single decode is
abandoned: that job fails, the rest of its chunk is decoded by other threads, and a new
thread replaces it. The watchdog's thread looks for such threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from queue import SimpleQueue
from typing import NamedTuple

import structlog

from common.catalog import ModelSpec
from common.errors import DecodeTimedOut
from worker.guard.calls import Calls, Slot, stack_of
from worker.jobs import steps
from worker.jobs.execution import Execution
from worker.jobs.served import Served
from worker.lanes.lane import Lane

log = structlog.get_logger(__name__)


class CallerReplaced(Exception):
    """The calling thread was abandoned in a decode and has been replaced by another one."""


@dataclass(eq=False, slots=True)
class _Chunk:
    """The jobs that one thread decodes in one call; `done` is set at its end for a waiter."""

    lane: Lane
    executions: Sequence[Execution]
    pooled: bool
    done: threading.Event | None = None
    began: float = 0.0
    busy_before: float = 0.0


class Decoded(NamedTuple):
    """The jobs of one chunk, decoded or failed."""

    lane: Lane
    executions: Sequence[Execution]
    pooled: bool
    """Whether the pool decoded them, rather than the caller's thread."""
    began: float
    """When decoding began, on the steady clock."""
    busy_before: float
    """The device's busy seconds at that time."""


@dataclass(eq=False, slots=True)
class _Slot:
    """A decoding thread and its position in its chunk."""

    replace: Callable[[], None]
    guard: Slot
    lock: threading.Lock = field(default_factory=threading.Lock)
    chunk: _Chunk | None = None
    position: int = 0
    began: float = 0.0
    limit: float = inf
    abandoned: bool = False


class DecodePool:
    """Decodes in a pool of threads or in the caller's own; `look` bounds both."""

    def __init__(self, threads: int, calls: Calls, busy_at: Callable[[float], float]) -> None:
        """busy_at returns the device's total busy seconds up to a time."""
        self._calls = calls
        self._busy_at = busy_at
        self._threads = threads
        self._deliver: Callable[[Decoded], None] = lambda _decoded: None
        self._queue: SimpleQueue[_Chunk | None] = SimpleQueue()
        self._slots: set[_Slot] = set()
        self._callers = threading.local()
        self._stopping = threading.Event()

    @property
    def has_threads(self) -> bool:
        """Whether there is a pool to submit to."""
        return self._threads > 0

    def start(self, deliver: Callable[[Decoded], None]) -> None:
        """Start the decoding threads; deliver runs on the thread that decoded."""
        self._deliver = deliver
        for _ in range(self._threads):
            self._add_thread()

    def stop(self) -> None:
        """End the threads; queued jobs stay undecoded."""
        self._stopping.set()
        for _ in range(self._threads):
            self._queue.put(None)

    def submit(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """Decode these in the pool, spread over its threads."""
        size = max(1, -(-len(executions) // max(1, self._threads)))
        for first in range(0, len(executions), size):
            self._queue.put(_Chunk(lane, executions[first : first + size], pooled=True))

    def run(self, lane: Lane, executions: Sequence[Execution], replace: Callable[[], None]) -> None:
        """Decode these in the calling thread; `replace` starts another if it is abandoned.

        Raises CallerReplaced in the abandoned thread, which must end without touching anything.
        """
        slot = getattr(self._callers, "slot", None)
        if slot is None:
            slot = self._callers.slot = self._new_slot(replace)
        self._work(slot, _Chunk(lane, executions, pooled=False))
        if slot.abandoned:
            raise CallerReplaced

    def run_one(self, lane: Lane, execution: Execution) -> None:
        """Decode one job and wait for it; it is not delivered. Returns within the limit."""
        chunk = _Chunk(lane, [execution], pooled=False, done=threading.Event())
        slot = self._new_slot(lambda: None)
        threading.Thread(
            target=self._work, args=(slot, chunk), name="decode-one", daemon=True
        ).start()
        assert chunk.done is not None
        chunk.done.wait()
        if not slot.abandoned:
            self._slots.discard(slot)
            self._calls.discard(slot.guard)

    def look(self, now: float) -> None:
        """Abandon the threads that have taken too long; the watchdog calls it."""
        for slot in list(self._slots):
            if slot.chunk is not None and now - slot.began > slot.limit:
                self._abandon(slot, now)

    def _new_slot(self, replace: Callable[[], None]) -> _Slot:
        slot = _Slot(replace, self._calls.new_slot())
        self._slots.add(slot)
        return slot

    def _add_thread(self) -> None:
        slot = self._new_slot(self._add_thread)
        threading.Thread(target=self._serve, args=(slot,), name="decode", daemon=True).start()

    def _serve(self, slot: _Slot) -> None:
        while not slot.abandoned and (chunk := self._queue.get()) is not None:
            if not self._stopping.is_set():
                self._work(slot, chunk)

    def _work(self, slot: _Slot, chunk: _Chunk) -> None:
        lane, spec, handler = chunk.lane, chunk.lane.spec, chunk.lane.handler
        if handler is None:  # unexpected: the leases expire and are reaped
            log.error("decoded_without_a_model", lane=lane.name, jobs=len(chunk.executions))
            for execution in chunk.executions:
                execution.disposition = "lost"
            self._hand_over(chunk, chunk.executions)
            return
        began = chunk.began = now = time.monotonic()
        chunk.busy_before = self._busy_at(now)
        limit = self._enter(slot, spec, began)
        served: Served | None = None
        slot.position, slot.began, slot.chunk = 0, began, chunk
        for position, execution in enumerate(chunk.executions):
            slot.position, slot.began = position, now
            if (picked := execution.served) is not served and picked is not None:
                served, spec, handler = picked, picked.spec, picked.handler
                limit = self._enter(slot, spec, now)
            steps.decode(execution, spec, handler)
            now = time.monotonic()
            if now - slot.began < limit / 2:
                continue  # too early for the watch to have abandoned the slot
            with slot.lock:
                if slot.abandoned:
                    return
        with slot.lock:
            if slot.abandoned:
                return
            slot.chunk = None
            slot.guard.leave()
        lane.stats.decode_seconds = (time.monotonic() - began) / len(chunk.executions)
        self._hand_over(chunk, chunk.executions)

    def _enter(self, slot: _Slot, spec: ModelSpec, now: float) -> float:
        limit = slot.limit = self._calls.limits.of("decode", spec)
        slot.guard.enter("decode", spec, now)
        return limit

    def _hand_over(self, chunk: _Chunk, executions: Sequence[Execution]) -> None:
        if chunk.done is not None:
            chunk.done.set()
        else:
            decoded = Decoded(chunk.lane, executions, chunk.pooled, chunk.began, chunk.busy_before)
            self._deliver(decoded)

    def _abandon(self, slot: _Slot, now: float) -> None:
        with slot.lock:
            chunk, position = slot.chunk, slot.position
            if chunk is None or now - slot.began <= slot.limit:
                return
            slot.abandoned, slot.chunk = True, None
        self._slots.discard(slot)
        if (call := slot.guard.call) is not None:
            self._calls.abandon(slot.guard, call)
        culprit = chunk.executions[position]
        culprit.fail("decode", DecodeTimedOut(f"the input was not decoded within {slot.limit:g} s"))
        stack = stack_of(slot.guard.thread)
        log.warning("decode_abandoned", lane=chunk.lane.name, job_id=culprit.job_id, stack=stack)
        self._hand_over(chunk, chunk.executions[: position + 1])
        slot.replace()
        rest = chunk.executions[position + 1 :]
        if rest:
            if not self._threads:
                self._threads = 1
                self._add_thread()
            self._queue.put(_Chunk(chunk.lane, rest, chunk.pooled))

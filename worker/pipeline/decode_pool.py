"""Decode inputs, and let none of them hold up the rest.

A thread cannot be stopped. One that is in a single decode for longer than
the limit is given up: the job that it is in fails, what else it was given is
decoded by others, and another thread takes its place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

import structlog

from common.errors import DecodeTimedOut
from worker.jobs import steps as pipeline
from worker.jobs.steps import Execution
from worker.lanes.lane import Lane

log = structlog.get_logger(__name__)

_LOOKS_A_LIMIT = 4


@dataclass(eq=False, slots=True)
class _Chunk:
    """What one thread decodes in one go; `done` is for who waits for it."""

    lane: Lane
    executions: Sequence[Execution]
    pooled: bool
    done: threading.Event | None = None
    began: float = 0.0
    busy_before: float = 0.0


class Decoded(NamedTuple):
    """What was decoded in one go, or has failed."""

    lane: Lane
    executions: Sequence[Execution]
    pooled: bool
    """Whether the pool did it."""
    began: float
    """When it began, on the steady clock."""
    busy_before: float
    """The device's busy seconds by then."""


@dataclass(eq=False, slots=True)
class _Desk:
    """A thread that decodes, and where it is."""

    replace: Callable[[], None]
    lock: threading.Lock = field(default_factory=threading.Lock)
    chunk: _Chunk | None = None
    position: int = 0
    began: float = 0.0
    given_up: bool = False


class Decoders:
    """A pool of decoding threads, a way to decode in the caller's own, and a watch over both."""

    def __init__(
        self,
        threads: int,
        limit_seconds: float,
        deliver: Callable[[Decoded], None],
        busy_at: Callable[[float], float],
    ) -> None:
        """busy_at says for how long the device has been busy until a moment."""
        self._limit = limit_seconds
        self._deliver = deliver
        self._busy_at = busy_at
        self._threads = threads
        self._queue: SimpleQueue[_Chunk | None] = SimpleQueue()
        self._desks: set[_Desk] = set()
        self._callers = threading.local()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to decode, and to watch."""
        for _ in range(self._threads):
            self._hire()
        threading.Thread(target=self._watch, name="decode-watch", daemon=True).start()

    def stop(self) -> None:
        """End the threads; what is queued stays undecoded."""
        self._stopping.set()
        for _ in range(self._threads):
            self._queue.put(None)

    def put(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """Decode these in the pool, spread over its threads."""
        size = max(1, -(-len(executions) // max(1, self._threads)))
        for first in range(0, len(executions), size):
            self._queue.put(_Chunk(lane, executions[first : first + size], pooled=True))

    def run(self, lane: Lane, executions: Sequence[Execution], replace: Callable[[], None]) -> None:
        """Decode these in the calling thread, which `replace` makes up for if it is given up."""
        desk = getattr(self._callers, "desk", None)
        if desk is None:
            desk = self._callers.desk = _Desk(replace)
            self._desks.add(desk)
        self._work(desk, _Chunk(lane, executions, pooled=False))

    def run_one(self, lane: Lane, execution: Execution) -> None:
        """Decode one and wait for it; it is not delivered. Ends at the limit at the latest."""
        chunk = _Chunk(lane, [execution], pooled=False, done=threading.Event())
        desk = _Desk(lambda: None)
        self._desks.add(desk)
        threading.Thread(target=self._work, args=(desk, chunk), daemon=True).start()
        assert chunk.done is not None
        chunk.done.wait()
        self._desks.discard(desk)

    def _hire(self) -> None:
        desk = _Desk(self._hire)
        self._desks.add(desk)
        threading.Thread(target=self._sit, args=(desk,), name="decode", daemon=True).start()

    def _sit(self, desk: _Desk) -> None:
        while not desk.given_up and (chunk := self._queue.get()) is not None:
            if not self._stopping.is_set():
                self._work(desk, chunk)

    def _work(self, desk: _Desk, chunk: _Chunk) -> None:
        lane, spec, handler = chunk.lane, chunk.lane.spec, chunk.lane.handler
        if handler is None:  # should not be: then the leases lapse, and others take over
            log.error("decoded_without_a_model", lane=lane.name, jobs=len(chunk.executions))
            for execution in chunk.executions:
                execution.settled = "lost"
            self._hand_over(chunk, chunk.executions)
            return
        began = chunk.began = now = time.monotonic()
        chunk.busy_before = self._busy_at(now)
        desk.position, desk.began, desk.chunk = 0, began, chunk
        for position, execution in enumerate(chunk.executions):
            desk.position, desk.began = position, now
            pipeline.decode(execution, spec, handler)
            now = time.monotonic()
            if now - desk.began < self._limit / 2:
                continue  # nobody can have given us up
            with desk.lock:
                if desk.given_up:
                    return
        with desk.lock:
            if desk.given_up:
                return
            desk.chunk = None
        lane.decode_seconds = (time.monotonic() - began) / len(chunk.executions)
        self._hand_over(chunk, chunk.executions)

    def _hand_over(self, chunk: _Chunk, executions: Sequence[Execution]) -> None:
        if chunk.done is not None:
            chunk.done.set()
        else:
            decoded = Decoded(chunk.lane, executions, chunk.pooled, chunk.began, chunk.busy_before)
            self._deliver(decoded)

    def _watch(self) -> None:
        while not self._stopping.wait(min(1.0, self._limit / _LOOKS_A_LIMIT)):
            now = time.monotonic()
            for desk in list(self._desks):
                if desk.chunk is not None and now - desk.began > self._limit:
                    self._give_up(desk, now)

    def _give_up(self, desk: _Desk, now: float) -> None:
        with desk.lock:
            chunk, position = desk.chunk, desk.position
            if chunk is None or now - desk.began <= self._limit:
                return
            desk.given_up, desk.chunk = True, None
        self._desks.discard(desk)
        culprit = chunk.executions[position]
        culprit.fail(
            "decode", DecodeTimedOut(f"the input was not decoded within {self._limit:g} s")
        )
        log.warning("decode_given_up", lane=chunk.lane.name, job_id=culprit.job_id)
        self._hand_over(chunk, chunk.executions[: position + 1])
        desk.replace()
        rest = chunk.executions[position + 1 :]
        if rest:
            if not self._threads:
                self._threads = 1
                self._hire()
            self._queue.put(_Chunk(chunk.lane, rest, chunk.pooled))

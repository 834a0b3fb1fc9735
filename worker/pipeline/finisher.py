"""Publishes results: encodes them, then runs one script per batch.

Batch n is encoded and published here while batch n+1 runs. While Redis is unavailable the
results wait in memory; their leases are renewed if it is back in time, and results whose
lease expired meanwhile are fenced, and counted as such.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple, TypeVar

import structlog

from common.errors import EncodeTimedOut
from common.jobs.result_document import Stamp
from common.trace import trace_id
from worker.guard.calls import Call, Calls, Slot, stack_of
from worker.jobs.encoding import Abandoned, encode
from worker.jobs.execution import Disposition, Execution, Hold, Retry, judge_time
from worker.jobs.leases import LaneLeases
from worker.lanes.lane import Lane
from worker.lanes.patience import PAUSE_SECONDS, until_accepted
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.models.base import Model
from worker.pipeline.endings import Ending, by_ending, delay, letter, outcome

log = structlog.get_logger(__name__)

T = TypeVar("T")

_DISPOSITION = attrgetter("disposition")

_IGNORED_RESULT_SECONDS = 60
"""How long a result stays that its client ignores: for who looks over HTTP, and so that a copy of
its message does not run."""


class _Group(NamedTuple):
    """Executions of one lane that the device ran together, or that ended before they ran."""

    lane: Lane
    executions: Sequence[Execution]
    infer_ms: float
    """0 where the device did not run them."""
    submitted_at: float
    holds_device: bool = False
    """Whether the device waits where several such groups are unpublished."""

    @property
    def ran(self) -> bool:
        return self.infer_ms > 0


@dataclass(eq=False, slots=True)
class _Encoder:
    """What one publishing thread and the watchdog know of its encodes."""

    slot: Slot
    lock: threading.Lock = field(default_factory=threading.Lock)
    abandoned: bool = False
    seen: Execution | None = None
    """The job that the watchdog last saw being encoded, and when it first did."""
    seen_at: float = 0.0


class _Author(NamedTuple):
    """Who the results say that they are of."""

    worker: str
    computed_by: Callable[[Model | None], str]


class Published(NamedTuple):
    """A group whose transitions Redis has accepted; the argument of the listeners."""

    lane: Lane
    executions: Sequence[Execution]
    finished: Sequence[Execution]
    """Those whose result was published."""


Listener = Callable[[Published], None]


class Finisher:
    """Publishes on one thread; every execution that has ended passes through it once."""

    def __init__(
        self,
        state: WorkerState,
        leases: Mapping[str, LaneLeases],
        worker: str,
        redis_health: RedisHealth,
        listeners: Sequence[Listener],
        calls: Calls,
        computed_by: Callable[[Model | None], str] = lambda _handler: "",
    ) -> None:
        """worker is the name in the results; listeners are called in order, on its thread.

        computed_by tells what a handler's results say of it.
        """
        self._state = state
        self._leases = leases
        self._author = _Author(worker, computed_by)
        self._redis_health = redis_health
        self._listeners = listeners
        self._queue: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._calls = calls
        self._encoder = _Encoder(calls.new_slot())
        self._thread = self._new_thread()
        self._give_up_at: float | None = None
        self.finished = 0
        """Results published. Written by its thread."""
        self.fenced = 0
        """Results refused because the lease was no longer this worker's. Written by its thread."""

    def start(self) -> None:
        """Start the publishing thread."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Publish the queued groups, for at most this long."""
        self._give_up_at = time.monotonic() + seconds
        self._queue.put(None)
        until = self._give_up_at + 1
        while (thread := self._thread).is_alive() and (left := until - time.monotonic()) > 0:
            thread.join(min(left, PAUSE_SECONDS))  # it may be replaced meanwhile

    def submit_batch(self, lane: Lane, executions: Sequence[Execution], infer_ms: float) -> None:
        """Queue a batch that the device ran in this time."""
        self._submit(_Group(lane, executions, infer_ms, time.monotonic(), infer_ms > 0))

    def submit_generated(self, lane: Lane, executions: Sequence[Execution], rows_ms: float) -> None:
        """Queue jobs that were on rows for this time. They end one by one, and the rows of others
        do not wait for them: no more are reserved while many are unpublished.
        """
        self._submit(_Group(lane, executions, rows_ms, time.monotonic()))

    def submit_ended(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """Queue jobs that ended without a run, or one by one after it."""
        self._submit(_Group(lane, executions, 0.0, time.monotonic()))

    def flush(self) -> None:
        """Wait until everything submitted so far is published, or the worker stops."""
        self._state.await_published(PAUSE_SECONDS)

    def _submit(self, group: _Group) -> None:
        self._state.submitted(group.holds_device)
        self._queue.put(group)

    def look(self, now: float) -> None:
        """Abandon a thread that an encode has kept for too long; the watchdog calls it."""
        encoder = self._encoder
        call = encoder.slot.call
        if call is None:
            return
        # The call is a group's; the limit is a job's, so its time counts from its first look.
        current: Execution | None = next(filter(_is_unwritten, call.about.executions), None)
        if current is None or current is not encoder.seen:
            encoder.seen, encoder.seen_at = current, now
            return
        limit = self._calls.limits.of("encode", call.spec)
        if now - encoder.seen_at > limit:
            self._abandon(encoder, call, current, limit)

    def _abandon(self, encoder: _Encoder, call: Call, current: Execution, limit: float) -> None:
        with encoder.lock:
            if encoder.slot.call is not call or not _is_unwritten(current):
                return
            encoder.abandoned = True
        lane = call.about.lane.name
        log.error(
            "encode_abandoned",
            lane=lane,
            job_id=ascii(current.job_id),
            stack=stack_of(encoder.slot.thread),
        )
        self._calls.abandon(encoder.slot, call)
        error = EncodeTimedOut(f"the output was not encoded within {limit:g} s")
        current.disposition, current.step, current.error = "failed", "encode", error
        current.output = None
        self._thread, self._encoder = self._new_thread(call.about), _Encoder(self._calls.new_slot())
        self._thread.start()

    def _new_thread(self, first: _Group | None = None) -> threading.Thread:
        return threading.Thread(target=self._run, args=(first,), name="finisher", daemon=True)

    def _run(self, first: _Group | None) -> None:
        group = first or self._queue.get()
        while group is not None:
            try:
                self._publish(group)
            except Abandoned:
                return
            except Exception:
                log.exception("publish_lost_to_a_fault_of_ours", lane=group.lane.name)
            self._state.published(group.lane, group.executions, group.holds_device)
            group = self._queue.get()

    def _publish(self, group: _Group) -> None:
        self._encode(group)
        lane, leases = group.lane, self._leases[group.lane.name]
        ending = by_ending(group.executions)
        finished = self._finish(lane, leases, ending.get(Ending.FINISH, ()), lane.result_ttl)
        if told := ending.get(Ending.TELL):
            ttl = min(_IGNORED_RESULT_SECONDS, lane.result_ttl)
            finished = [*finished, *self._finish(lane, leases, told, ttl)]
        if dead := ending.get(Ending.BURY):
            self._until_done(lane, lambda: leases.bury(list(map(letter, dead)), lane.result_ttl))
        if delayed := ending.get(Ending.RETRY):
            self._until_done(lane, lambda: leases.retry(map(delay, delayed)))
        for execution in ending.get(Ending.CANCEL, ()):
            self._cancel(lane, leases, execution)
        _count(lane, finished)
        _log_traced(lane, group.executions)
        self._tell(Published(lane, group.executions, finished))

    def _tell(self, published: Published) -> None:
        for listener in self._listeners:
            try:
                listener(published)
            except Exception:
                log.exception("listener_failed", lane=published.lane.name)

    def _encode(self, group: _Group) -> None:
        """Write each job's result; raises Abandoned in a thread that was replaced meanwhile."""
        lane, executions, encoder = group.lane, group.executions, self._encoder
        began = time.monotonic()
        encoder.slot.enter("encode", lane.spec_of(executions[0]), began, group)
        watch, most_bytes = lane.watch, self._calls.limits.result_bytes
        server_time, run_seconds = began + lane.clock_ahead, group.infer_ms / 1000
        stamp = Stamp(
            lane.name,
            executions[0].version or lane.spec.version,
            self._author.worker,
            len(executions),
            group.infer_ms,
            int(server_time * 1000),
            computed_by=self._author.computed_by(executions[0].handler),
        )
        for execution in executions:
            if execution.meta:
                continue  # by the thread that was abandoned at a later one
            if execution.deadline is not None and execution.deadline <= server_time:
                execution.disposition = execution.disposition or "expired"
            if execution.time_limits is not None:
                judge_time(execution, run_seconds)
            try:
                encode(execution, stamp, encoder, most_bytes, watch)
                f"{execution.job_id}{execution.digest}".encode()  # both are sent to Redis unescaped
            except Abandoned:
                raise
            except Exception:
                # Its lease expires, as after a crash; the rest of the batch is published.
                job_id = ascii(execution.job_id)
                log.exception("result_lost_to_a_fault_of_ours", lane=lane.name, job_id=job_id)
                execution.disposition = "lost"
        with encoder.lock:
            if encoder.abandoned:
                raise Abandoned
            encoder.slot.leave()
        if group.ran:
            stages = lane.stats.stages.stages
            stages["publish"].observe(began - group.submitted_at)
            stages["encode"].observe(time.monotonic() - began)

    def _finish(
        self, lane: Lane, leases: LaneLeases, results: Sequence[Execution], result_ttl: int
    ) -> Sequence[Execution]:
        """Publish these results; returns those that were not fenced."""
        if not results:
            return ()
        outcomes = [outcome(execution, lane) for execution in results]
        began = time.monotonic()
        fenced = self._until_done(lane, lambda: leases.finish(outcomes, result_ttl))
        if fenced is None:
            return ()
        lane.stats.stages.stages["finish"].observe(time.monotonic() - began)
        self.finished += len(results) - len(fenced)
        if not fenced:
            return results
        self.fenced += len(fenced)
        log.warning("results_fenced", lane=lane.name, jobs=len(fenced))
        positions = set(fenced)
        return [one for position, one in enumerate(results) if position not in positions]

    def _cancel(self, lane: Lane, leases: LaneLeases, execution: Execution) -> None:
        state = str(execution.disposition)
        self._until_done(lane, lambda: leases.cancel(execution.job_id, lane.result_ttl, state))

    def _until_done(self, lane: Lane, transition: Callable[[], T]) -> T | None:
        """Repeat a transition until Redis accepts it; fencing makes repeating safe.

        Returns None when the time allowed at shutdown is over.
        """
        answered = self._redis_health.answered
        return until_accepted(
            transition, "finishing", lane.name, lambda: self._give_up_at, answered
        )


def _is_unwritten(execution: Execution) -> bool:
    return not execution.meta and execution.disposition in (None, "failed")


def _count(lane: Lane, finished: Sequence[Execution]) -> None:
    """Count the results by their version, which one batch has in common."""
    if finished:
        version = lane.stats.version(finished[0].version or lane.spec.version)
        failed = list(map(_DISPOSITION, finished)).count("failed")
        version.failed += failed
        version.succeeded += len(finished) - failed


def _log_traced(lane: Lane, executions: Sequence[Execution]) -> None:
    for execution in executions:
        if execution.traceparent:
            log.info(
                "job_settled",
                job_id=execution.job_id,
                lane=lane.name,
                attempt=execution.attempt,
                outcome=_name_of(execution.disposition),
                trace_id=trace_id(execution.traceparent),
            )


def _name_of(disposition: Disposition | None) -> str:
    """One of few, as who counts log lines by it expects."""
    return "parked" if isinstance(disposition, Retry | Hold) else str(disposition)

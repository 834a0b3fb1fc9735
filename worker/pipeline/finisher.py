"""Publish what the device produced: encode, then one script per batch.

Batch n is encoded and published here while batch n+1 runs. When Redis is
away the results wait in memory, and their leases are renewed when it is back
in time; what lapsed meanwhile is fenced, and counted as such.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog
from redis.exceptions import RedisError

from common.errors import AttemptsExhausted, InputStoreUnavailable, InvalidInput
from common.jobs.cache_entry import Entry
from common.redis.keys import cache_key, flight_name
from common.redis.scripts import Scripts
from common.trace import trace_id
from worker.jobs import steps as pipeline
from worker.jobs.leases import DeadLetter, FinishedJob, Flag, RetryJob
from worker.jobs.steps import Execution, Stamp
from worker.lanes.lane import Lane
from worker.pipeline.cache_writer import Kept

if TYPE_CHECKING:
    from worker.engine import Engine

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 0.2
_LANDED_SECONDS = 10
"""Longer than anybody takes from looking into the cache to enqueueing."""


@dataclass(slots=True)
class Finished:
    """Executions of one lane that left the device together, or failed before it."""

    lane: Lane
    executions: Sequence[Execution]
    infer_ms: float
    put_at: float


class Finisher:
    """One thread; every settled execution passes through it once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)
        self._give_up_at: float | None = None
        self._scripts = Scripts(engine.client)
        self.pending = 0
        """Put and not yet settled; guarded by the engine's lock."""
        self.pending_batches = 0
        """Of these, batches that the device ran."""
        self.finished = 0
        self.fenced = 0

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Publish what is queued, for at most this long."""
        self._give_up_at = time.monotonic() + seconds
        self._queue.put(None)
        self._thread.join(seconds + 1)

    def put(self, lane: Lane, executions: Sequence[Execution], infer_ms: float = 0.0) -> None:
        """Queue these for publishing."""
        with self._engine.changed:
            self.pending += 1
            self.pending_batches += infer_ms > 0
        self._queue.put(Finished(lane, executions, infer_ms, time.monotonic()))

    def flush(self) -> None:
        """Wait until everything put so far is published, or the engine stops."""
        with self._engine.changed:
            while self.pending and not self._engine.stopping.is_set():
                self._engine.changed.wait(_PAUSE_SECONDS)

    def _run(self) -> None:
        while (finished := self._queue.get()) is not None:
            try:
                self._publish(finished)
                self._engine.on_batch(finished.lane.name, finished.executions)
            except Exception:
                log.exception("publish_lost_to_a_fault_of_ours", lane=finished.lane.name)
            with self._engine.changed:
                self.pending -= 1
                self.pending_batches -= finished.infer_ms > 0
            self._engine.settle(finished.lane, finished.executions)

    def _encode(self, finished: Finished) -> None:
        lane, executions = finished.lane, finished.executions
        began = time.monotonic()
        server_time = began + lane.clock_ahead
        stamp = Stamp(
            lane.name,
            executions[0].version or lane.spec.version,
            self._engine.worker,
            len(executions),
            finished.infer_ms,
            int(server_time * 1000),
        )
        for execution in executions:
            if execution.deadline is not None and execution.deadline <= server_time:
                execution.settled = execution.settled or "expired"
            try:
                pipeline.encode(execution, stamp)
                f"{execution.job_id}{execution.digest}".encode()  # both go to Redis as they are
            except Exception:
                # Its lease lapses, as if we had died of it; the others of its batch go on.
                log.exception(
                    "result_lost_to_a_fault_of_ours",
                    lane=lane.name,
                    job_id=ascii(execution.job_id),
                )
                execution.settled = "lost"
        if finished.infer_ms:
            lane.stages.stages["publish"].observe(began - finished.put_at)
            lane.stages.stages["encode"].observe(time.monotonic() - began)

    def _publish(self, finished: Finished) -> None:
        self._encode(finished)
        lane, executions = finished.lane, finished.executions
        results = [one for one in executions if one.settled in ("succeeded", "failed")]
        dead = [one for one in results if isinstance(one.error, AttemptsExhausted)]
        if dead:
            results = [one for one in results if one not in dead]
        dead += [one for one in executions if one.settled == "unreadable"]
        if results:
            self._finish(lane, results)
        if dead:
            self._until_done(
                lane, lambda: lane.leases.bury(list(map(_letter, dead)), lane.result_ttl)
            )
        parked = [one for one in executions if one.settled == "parked"]
        if parked:
            self._until_done(lane, lambda: lane.leases.retry(map(_parking, parked)))
        for execution in executions:
            if execution.settled in ("canceled", "expired"):
                self._cancel(lane, execution)
            if execution.traceparent:
                log.info(
                    "job_settled",
                    job_id=execution.job_id,
                    lane=lane.name,
                    attempt=execution.attempt,
                    outcome=execution.settled,
                    trace_id=trace_id(execution.traceparent),
                )

    def _finish(self, lane: Lane, results: list[Execution]) -> None:
        outcomes = [_outcome(execution, lane) for execution in results]
        fenced: list[int] = []
        stored: list[str] = []

        def publish() -> None:
            fenced[:] = lane.leases.finish(outcomes, lane.result_ttl)
            stored[:] = [one.job_id for one in results if one.stored]

        began = time.monotonic()
        self._until_done(lane, publish)
        lane.stages.stages["finish"].observe(time.monotonic() - began)
        if stored:
            lost = {results[index].job_id for index in fenced}
            self._engine.fetcher.discard([one for one in stored if one not in lost])
        self.finished += len(results) - len(fenced)
        if fenced:
            self.fenced += len(fenced)
            log.warning("results_fenced", lane=lane.name, jobs=len(fenced))
        self._keep(lane, results, set(fenced))

    def _keep(self, lane: Lane, results: list[Execution], fenced: set[int]) -> None:
        """Keep what was published, where the model is the one that the front meant."""
        kept = []
        for position, execution in enumerate(results):
            if not execution.result or position in fenced:
                continue
            model = self._engine.models.residency.loaded_as(execution.handler)
            if model is None or model.fingerprint != execution.weights:
                continue
            spec, now_ms = model.spec, int(lane.server_time() * 1000)
            entry = Entry(execution.result, now_ms, spec.version, execution.weights)
            key = cache_key(spec.name, execution.digest)
            kept.append(Kept(key, entry, spec.keeps_results_seconds))
        if kept:
            self._engine.cache.put(kept)

    def _cancel(self, lane: Lane, execution: Execution) -> None:
        self._until_done(
            lane,
            lambda: self._scripts.run(
                "cancel", (), (execution.job_id, lane.result_ttl, execution.settled or "")
            ),
        )

    def _until_done(self, lane: Lane, transition: object) -> None:
        """Repeat a transition until Redis took it; fencing makes repeating safe."""
        assert callable(transition)
        while True:
            try:
                transition()
            except RedisError as exc:
                log.warning("finish_delayed", lane=lane.name, error=str(exc))
                if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                    return
                time.sleep(_PAUSE_SECONDS)
            else:
                self._engine.touch()
                return


def _outcome(execution: Execution, lane: Lane) -> FinishedJob:
    failure: Literal["", "input", "model", "other"] = ""
    if execution.settled == "failed":
        failure = "input" if isinstance(execution.error, InvalidInput) else "other"
        if pipeline.model_is_to_blame(execution):
            failure = "model"
    tag, job_id, meta = execution.tag, execution.job_id, execution.meta
    blob: Flag = "1" if execution.has_blob else ""
    flight: str = ""
    reuse_ms: int | str = ""
    if execution.digest:
        flight = flight_name(lane.name, execution.digest)
        reuse_ms = min(_LANDED_SECONDS, max(1, lane.spec.keeps_results_seconds)) * 1000
    return FinishedJob(tag, job_id, meta, execution.tenant, flight, reuse_ms, failure, blob)


def _letter(execution: Execution) -> DeadLetter:
    return DeadLetter(
        execution.tag,
        execution.job_id,
        pipeline.reason_of(execution),
        pipeline.describe(execution),
        execution.attempt,
        execution.meta,
    )


def _parking(execution: Execution) -> RetryJob:
    """Due at an ETA (Unix seconds) or, when negative, after so many milliseconds.

    A job whose input could not be read gives back what its lease was counted as.
    """
    tag, job_id, eta = execution.tag, execution.job_id, execution.eta or 0.0
    uncount: Flag = "" if execution.suspect else "1"
    if execution.error is None:
        return RetryJob(tag, job_id, due_ms=int(eta * 1000), uncount=uncount)
    delay_ms = int(-eta)
    if isinstance(execution.error, InputStoreUnavailable) and not execution.started:
        return RetryJob(tag, job_id, delay_ms=delay_ms, unread="1", uncount=uncount)
    return RetryJob(tag, job_id, delay_ms=delay_ms, error=pipeline.describe(execution))

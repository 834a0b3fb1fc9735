"""The one thread that owns the device: loads the models, runs the batches.

A batch that raises is split and its halves are tried, so that a job is only
charged with an error that it causes alone.

Where a handler's `infer` does not wait for its device (see transfer.py), one
batch is in flight while the next is put together and queued behind it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from common.errors import AttemptsExhausted, JobExpired, text_of
from worker.batching.batcher import Batch, BatchLimits
from worker.jobs import steps as pipeline
from worker.jobs.steps import Execution
from worker.lanes.lane import Lane
from worker.pipeline.error_policy import Decision, decide
from worker.residency.model_host import Errand
from worker.transfer import Later, is_lost

if TYPE_CHECKING:
    from worker.engine import Engine

log = structlog.get_logger(__name__)

_COST = attrgetter("cost")


@dataclass(frozen=True, slots=True)
class _Split:
    """What the parts of a batch that raised have in common."""

    limits: BatchLimits
    max_batch: int
    """The cap when the whole batch raised."""


@dataclass(slots=True)
class _Flight:
    """A batch that the device works on while we do something else."""

    lane: Lane
    batch: list[Execution]
    runs: list[list[Execution]]
    later: Later
    began: float
    split: _Split | None
    """Set where it is part of a batch that raised."""


class Runner:
    """Runs batches one after the other until the engine stops."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._device_time = engine.device_time
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._flight: _Flight | None = None
        self._landed_at = 0.0
        self.current: set[bytes] = set()
        """Tags of the batch on the device; guarded by the engine's lock."""

    def start(self) -> None:
        """Begin to load models, then to run batches."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until the running batch has ended."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:  # a handler may even raise SystemExit
            log.exception("device_thread_failed")
            self._engine.break_down()

    def _serve(self) -> None:
        try:
            self._engine.reaper.look_at_aliases()
        except RedisError as exc:
            log.warning("aliases_unread", error=str(exc))  # the reaper looks again
        with self._engine.changed:
            self._engine.models.begin()
        work = None
        while True:
            del work  # an errand holds its model
            work = self._engine.take_work(self._flight.later if self._flight else None)
            if isinstance(work, tuple):
                self._run_turn(*work)
            elif work is not None:
                self._land()
                self._run_errand(work)
            elif self._flight is not None:
                self._land()
            else:
                return

    def _run_turn(self, lane: Lane, batch: list[Execution]) -> None:
        began = time.monotonic()
        free_since = began if self._device_time.is_busy else self._device_time.free_since
        self._device_time.took(lane.stages.taken(batch, began, free_since))
        try:
            self._run_batch(lane, batch)
        except Exception:
            log.exception("batch_lost_to_a_fault_of_ours", lane=lane.name, size=len(batch))
            self._engine.settle(lane, batch)  # the leases lapse, others take over
        lane.run_seconds += (time.monotonic() - began - lane.run_seconds) / 4
        self._set_current()

    def _set_current(self) -> None:
        with self._engine.changed:
            self.current = {one.tag for one in self._flight.batch} if self._flight else set()

    def _run_errand(self, errand: Errand) -> None:
        self._engine.device_time.wait("loading", time.monotonic())
        try:
            errand()
        except Exception:
            log.exception("errand_failed")
        self._engine.device_time.resume(time.monotonic())

    def _run_batch(self, lane: Lane, batch: list[Execution]) -> None:
        runnable = self._still_wanted(lane, batch)
        if len(runnable) == 1 and runnable[0].suspect:
            self._run_suspect(lane, runnable[0])
        elif runnable:
            self._infer(lane, runnable)

    def _run_suspect(self, lane: Lane, suspect: Execution) -> None:
        """Run it with no result of others unpublished, and publish its own before going on.

        If it takes the process down, or what comes next does, nobody else is charged for it.
        """
        self._land()
        self._engine.finisher.flush()
        started = self._start_suspect(lane, suspect)
        if started:
            self._infer(lane, started)
            self._land()
        self._engine.finisher.flush()

    def _still_wanted(self, lane: Lane, batch: list[Execution]) -> list[Execution]:
        """Leave out what was revoked, expired or lost since it was reserved."""
        now = lane.server_time()
        for execution in batch:
            if execution.settled is not None:
                continue
            if self._engine.is_revoked(execution.job_id):
                execution.settled = "canceled"
            elif execution.expires_at is not None and execution.expires_at <= now:
                execution.settled = "expired"
                execution.error = JobExpired("the deadline passed before the job could start")
        unwanted = [one for one in batch if one.settled is not None]
        if not unwanted:
            return batch
        self._engine.finisher.put(lane, unwanted)
        if isinstance(batch, Batch):
            return batch.only(lambda one: one.settled is None, lambda one: one.cost)
        return [one for one in batch if one.settled is None]

    def _start_suspect(self, lane: Lane, suspect: Execution) -> list[Execution]:
        """Count its attempt, then decode it; it is on its own from here to its end."""
        try:
            number = lane.leases.start(suspect.tag, suspect.job_id, lane.result_ttl)
        except RedisError as exc:
            log.warning("start_failed", lane=lane.name, error=str(exc))
            suspect.settled = "lost"
            self._engine.settle(lane, [suspect])
            return []
        if number <= 0:
            suspect.settled = "lost"
            self._engine.settle(lane, [suspect])
            return []
        suspect.attempt = number
        self._engine.decoders.run_one(lane, suspect)
        if suspect.settled is not None:
            self._engine.finisher.put(lane, [suspect])
            return []
        return [suspect]

    def _infer(self, lane: Lane, batch: list[Execution], split: _Split | None = None) -> None:
        handler = batch[0].handler
        if handler is None:
            return
        runs = batch.runs() if isinstance(batch, Batch) else [[one] for one in batch]
        began = time.monotonic()
        for execution in batch:
            execution.started = began
        self._device_time.start(began)
        try:
            outputs = pipeline.launch([run[0] for run in runs], handler)
            if not isinstance(outputs, Later):
                pipeline.accept([run[0] for run in runs], outputs)
        except Exception as exc:  # noqa: BLE001 - whatever a model raises is judged below
            self._land()
            self._device_time.end(time.monotonic())
            self._judge(lane, batch, exc, split)
            return
        now = time.monotonic()
        if isinstance(outputs, Later):
            lane.stages.stages["collate"].observe(now - began)
            ahead, self._flight = self._flight, _Flight(lane, batch, runs, outputs, began, split)
            self._await(ahead)  # with this one queued behind it
            return
        self._land()
        self._device_time.end(now)
        self._done(lane, batch, runs, now - began)

    def _land(self) -> None:
        """Wait for the batch in flight, if there is one."""
        flight, self._flight = self._flight, None
        self._await(flight)
        if flight is not None:
            self._set_current()

    def _await(self, flight: _Flight | None) -> None:
        if flight is None:
            return
        try:
            outputs = flight.later.wait()
            pipeline.accept([run[0] for run in flight.runs], outputs)
        except Exception as exc:  # noqa: BLE001 - whatever a model raises is judged below
            self._landed()
            self._judge(flight.lane, flight.batch, exc, flight.split)
            return
        # What is queued behind another batch has the device once that one has left.
        began = max(flight.began, self._landed_at)
        seconds = self._landed() - began
        on_device = flight.later.device_seconds()
        self._done(flight.lane, flight.batch, flight.runs, min(on_device or seconds, seconds))

    def _landed(self) -> float:
        now = self._landed_at = time.monotonic()
        if self._flight is None:
            self._device_time.end(now)
        return now

    def _done(
        self, lane: Lane, batch: list[Execution], runs: list[list[Execution]], seconds: float
    ) -> None:
        """A batch has its outputs, after so long on the device."""
        if len(runs) < len(batch):
            pipeline.share_outputs(runs)
        lane.sizes[len(batch)] = lane.sizes.get(len(batch), 0) + 1
        if isinstance(batch, Batch):
            with self._engine.changed:
                lane.batcher.observe(batch.padded_cost, seconds)
        self._count(lane, batch, runs, seconds)
        self._engine.models.residency.touch(lane.spec.name)
        self._engine.finisher.put(lane, batch, seconds * 1000)

    @staticmethod
    def _count(
        lane: Lane, batch: list[Execution], runs: list[list[Execution]], seconds: float
    ) -> None:
        cost = (
            sum(map(_COST, batch)) if len(runs) == len(batch) else sum(one[0].cost for one in runs)
        )
        padded = batch.padded_cost if isinstance(batch, Batch) else cost
        caps = lane.limits
        share = max(len(runs) / caps.max_batch, padded / caps.max_cost if caps.max_cost else 0.0)
        lane.stages.ran(len(batch), min(1.0, share), cost, padded, seconds)

    def _judge(
        self, lane: Lane, batch: list[Execution], error: BaseException, split: _Split | None
    ) -> None:
        if is_lost(error):
            log.error("device_lost", lane=lane.name, size=len(batch), error=text_of(error))
            self._engine.settle(lane, batch)  # the leases lapse; elsewhere they run one by one
            self._engine.break_down()
            return
        settings = self._engine.settings
        decision = decide(error, len(batch), batch[0].attempt, settings.max_attempts)
        split = split or _Split(lane.limits, lane.limits.max_batch)
        self._set_cap(lane, decision, split)
        if decision.action == "split":
            half = len(batch) // 2
            self._infer(lane, batch[:half], split)
            self._infer(lane, batch[half:], split)
            return
        execution = batch[0]
        if decision.action == "retry":
            execution.settled, execution.step, execution.error = "parked", "infer", error
            execution.eta = -decision.delay_ms
        else:
            execution.fail("infer", error)
            if decision.action == "dead":
                text = pipeline.describe(execution)
                execution.error = AttemptsExhausted(
                    f"gave up after {execution.attempt} attempts: {text}"
                )
        self._engine.finisher.put(lane, [execution])

    @staticmethod
    def _set_cap(lane: Lane, decision: Decision, split: _Split) -> None:
        """Lower the lane's cap; back to what it was where one job is too large by itself.

        Should the size have mattered as well, the next full batch says so again.
        """
        limits = split.limits
        if decision.shrink_to is not None and decision.shrink_to < limits.max_batch:
            limits.max_batch = decision.shrink_to
            log.warning("batch_cap_lowered", lane=lane.name, max_batch=limits.max_batch)
        elif decision.too_large_alone and limits.max_batch < split.max_batch:
            limits.max_batch = split.max_batch
            log.warning("batch_cap_restored", lane=lane.name, max_batch=limits.max_batch)

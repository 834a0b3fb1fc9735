"""The one thread that owns the device: it executes the scheduler's decisions.

A batch that raises is split and its halves are run, so that a job fails only by an error
that it causes alone.

Where a handler's `infer` does not wait for its device (see transfer.py), one
batch is in progress while the next is put together and queued behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from operator import attrgetter

import structlog

from common.errors import text_of
from worker.batching.batcher import Batch
from worker.guard.calls import Call, Calls, Slot
from worker.guard.raised import RAISED
from worker.jobs import steps
from worker.jobs.execution import Execution
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.lanes.work import DeviceTask, RunBatch, RunStep, Wait, Work
from worker.pipeline.error_policy import Retries, decide
from worker.pipeline.failed_batch import Split, charge, set_cap
from worker.pipeline.finisher import Finisher
from worker.pipeline.in_progress import InProgress, Runs
from worker.pipeline.measures import measure
from worker.pipeline.scheduler import Scheduler
from worker.pipeline.starting import Starting
from worker.transfer import Later, is_lost

log = structlog.get_logger(__name__)

_COST = attrgetter("cost")
_LOOK_AT_DEVICE_SECONDS = 1e-3
"""How often an asynchronous device is polled for completion."""


class Runner:
    """Runs batches one after the other until the worker stops."""

    def __init__(
        self,
        state: WorkerState,
        starting: Starting,
        scheduler: Scheduler,
        finisher: Finisher,
        device_time: DeviceTime,
        calls: Calls,
        *,
        on_device_lost: Callable[[str], None],
        on_stuck: Callable[[Slot, Call], None] = lambda _slot, _call: None,
        retries: Retries,
        run_step: Callable[[RunStep], None] | None = None,
        end_steps: Callable[[], None] = lambda: None,
    ) -> None:
        """on_device_lost is called with the model whose run lost the device; on_stuck when a run
        takes longer than its limit. run_step advances a lane whose work is steps; end_steps brings
        all of them to their end when the worker stops.
        """
        self._state = state
        self._starting = starting
        self._scheduler = scheduler
        self._finisher = finisher
        self._device_time = device_time
        self._on_device_lost, self._on_stuck = on_device_lost, on_stuck
        self._calls = calls
        self._launching, self._computing = calls.new_slot(), calls.new_slot()
        self._retries = retries
        self._run_step, self._end_steps = run_step, end_steps
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._in_progress: InProgress | None = None
        self._ended_at = 0.0
        """When the last asynchronous batch ended."""

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait until the running batch has ended; returns whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def look(self, now: float) -> None:
        """Report a run that takes longer than its limit; the watchdog calls it."""
        for slot in (self._launching, self._computing):
            if call := self._calls.overdue(slot, now):
                self._on_stuck(slot, call)

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:  # a handler may even raise SystemExit
            log.exception("device_thread_failed")
            self._on_device_lost("")

    def _serve(self) -> None:
        while True:
            work = self._next_work()
            if work is not None:
                self._execute(work)
            elif self._in_progress is not None:
                self._end_progress()
            else:
                break
            del work  # a device task holds its model
        self._end_steps()

    def _next_work(self) -> Work | None:
        """Block until there is work; None when the worker stops.

        With a batch in progress, the work that should follow it at once; None when the batch
        ends before there is any.
        """
        ahead, state = self._in_progress, self._state
        if ahead is None:
            return self._await_work()
        while not state.stopping.is_set():
            done = ahead.is_done  # a driver may hang: not under the lock
            with state.lock:
                work = self._scheduler.next(time.monotonic(), False)
                if not isinstance(work, Wait):
                    return work
                if done:
                    return None
                state.changed.wait(_LOOK_AT_DEVICE_SECONDS)
        return None

    def _await_work(self) -> Work | None:
        with self._state.lock:
            while not self._state.stopping.is_set():
                work = self._scheduler.next(now := time.monotonic(), True)
                if not isinstance(work, Wait):
                    return work
                self._idle(work, now)
        return None

    def _idle(self, wait: Wait, now: float) -> None:
        self._device_time.wait(wait.cause, now)
        self._state.changed.wait(wait.seconds)
        self._device_time.resume(time.monotonic())

    def _execute(self, work: Work) -> None:
        if isinstance(work, RunBatch):
            self._run_turn(work.lane, work.batch)
            return
        self._end_progress()
        if isinstance(work, DeviceTask):
            self._run_task(work)
        elif isinstance(work, RunStep):
            assert self._run_step is not None, "no lane works in steps"
            self._run_step(work)

    def _run_task(self, task: DeviceTask) -> None:
        self._device_time.wait(task.counts_as, time.monotonic())
        try:
            task.run()
        except BaseException:  # a handler may even raise SystemExit
            log.exception("device_task_failed")
        self._device_time.resume(time.monotonic())

    def _run_turn(self, lane: Lane, batch: Batch[Execution]) -> None:
        began = time.monotonic()
        free_since = began if self._device_time.is_busy else self._device_time.free_since
        self._device_time.took(lane.stats.stages.taken(batch, began, free_since))
        try:
            self._run_batch(lane, batch)
        except Exception:
            log.exception("batch_lost_to_a_fault_of_ours", lane=lane.name, size=len(batch))
            self._state.released(lane, batch)  # the leases expire and are reaped
        lane.stats.ran(time.monotonic() - began)
        self._set_running()

    def _set_running(self) -> None:
        self._state.set_running(self._in_progress.batch if self._in_progress else ())

    def _run_batch(self, lane: Lane, batch: Batch[Execution]) -> None:
        runnable = self._still_wanted(lane, batch)
        if len(runnable) == 1 and runnable[0].suspect:
            self._run_suspect(lane, runnable)
        elif runnable:
            self._infer(lane, runnable)

    def _run_suspect(self, lane: Lane, batch: Batch[Execution]) -> None:
        """Run it while no result of another job is unpublished, and publish its own at once.

        If it crashes the process, or the work after it does, no other job's attempt is spent.
        """
        self._end_progress()
        self._finisher.flush()
        suspect = batch[0]
        if self._starting.start_suspect(lane, suspect):
            self._infer(lane, Batch.single(suspect, suspect.cost))
            self._end_progress()
        self._finisher.flush()

    def _still_wanted(self, lane: Lane, batch: Batch[Execution]) -> Batch[Execution]:
        """Leave out jobs that were revoked, expired or lost since they were reserved."""
        unwanted = self._starting.end_unwanted(lane, batch)
        return batch.only(lambda one: one.tag not in unwanted, _COST) if unwanted else batch

    def _infer(self, lane: Lane, batch: Batch[Execution], split: Split | None = None) -> None:
        handler = batch[0].handler
        if handler is None:
            return
        runs, spec = batch.runs(), lane.spec_of(batch[0])
        began = time.monotonic()
        for execution in batch:
            execution.started = began
        self._device_time.start(began)
        self._launching.enter("infer", spec, began, batch)
        try:
            outputs = steps.launch([run[0] for run in runs], handler)
            if not isinstance(outputs, Later):
                steps.accept([run[0] for run in runs], outputs)
        except BaseException as exc:  # noqa: BLE001 - even an exit, by a model, is judged below
            self._end_progress()
            self._device_time.end(time.monotonic())
            self._judge(lane, batch, exc, split)
            return
        self._launching.leave()
        now = time.monotonic()
        if isinstance(outputs, Later):
            lane.stats.stages.stages["collate"].observe(now - began)
            started = InProgress(lane, batch, runs, outputs, began, split)
            ahead, self._in_progress = self._in_progress, started
            if ahead is None:
                self._computing.enter("infer", spec, began, batch)
            self._await(ahead)  # with this one queued behind it
            return
        self._end_progress()
        self._device_time.end(now)
        self._done(lane, batch, runs, now - began)

    def _end_progress(self) -> None:
        """Wait for the batch in progress, if there is one."""
        ahead, self._in_progress = self._in_progress, None
        if ahead is not None:
            self._await(ahead)
            self._set_running()

    def _await(self, ahead: InProgress | None) -> None:
        if ahead is None:
            return
        try:
            outputs = ahead.later.wait()
            on_device = ahead.later.device_seconds()
            steps.accept([run[0] for run in ahead.runs], outputs)
        except BaseException as exc:  # noqa: BLE001 - even an exit, by a model, is judged below
            self._device_is_done()
            self._judge(ahead.lane, ahead.batch, exc, ahead.split)
            return
        # A batch queued behind another starts on the device when that one has ended.
        began = max(ahead.began, self._ended_at)
        seconds = self._device_is_done() - began
        self._done(ahead.lane, ahead.batch, ahead.runs, min(on_device or seconds, seconds))

    def _device_is_done(self) -> float:
        now = self._ended_at = time.monotonic()
        following = self._in_progress
        if following is None:
            self._device_time.end(now)
            self._computing.leave()
        else:
            spec = following.lane.spec_of(following.batch[0])
            self._computing.enter("infer", spec, now, following.batch)
        return now

    def _done(self, lane: Lane, batch: Batch[Execution], runs: Runs, seconds: float) -> None:
        """Share, measure and submit the outputs of a batch that took `seconds` on the device."""
        if len(runs) < len(batch):
            steps.share_outputs(runs)
        measure(lane, batch, runs, seconds, time.monotonic(), self._state.counts.tenants)
        self._scheduler.ran(lane, batch, seconds)
        self._finisher.submit_batch(lane, batch, seconds * 1000)

    def _judge(
        self, lane: Lane, batch: Batch[Execution], error: BaseException, split: Split | None
    ) -> None:
        """Handle a batch that raised: split it, or end its only job by the error."""
        model = lane.spec_of(batch[0]).name
        if is_lost(error):
            log.error("device_lost", lane=lane.name, size=len(batch), error=text_of(error))
            # Its jobs stay in hand: they are released at the end, and run one by one later.
            self._on_device_lost(model)
            return
        RAISED.note(model, "infer", error, handler=batch[0].handler, jobs=len(batch))
        decision = decide(error, len(batch), batch[0].attempt, self._retries)
        self._launching.leave()
        split = split or Split(lane.limits, lane.limits.max_batch)
        set_cap(lane, decision, split)
        if decision.action == "split":
            for half in batch.halves(_COST):
                self._infer(lane, half, split)
            return
        charge(batch[0], decision, error)
        self._finisher.submit_ended(lane, batch)

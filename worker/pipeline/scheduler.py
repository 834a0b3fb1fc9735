"""Decides what the device runs next.

Pure on purpose: it is called under the lock of `WorkerState` with the time as an argument,
and neither waits nor does I/O, so that every rule can be tested by setting up lanes.

In this order: a device task (a model to warm up or to unload); nothing while too many
results are unpublished; then the lane whose turn it is, with its batch or step, or with
the loading of its model; then, where no job is known to wait, a shadow.
"""

from __future__ import annotations

from worker.batching.batcher import Batch
from worker.batching.turns import Candidate, Turns
from worker.jobs.execution import Execution
from worker.lanes.device_time import Idle
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.lanes.work import DeviceTask, RunBatch, RunStep, Wait, Work
from worker.pipeline.shadow_runner import ShadowRunner
from worker.residency.model_host import ModelHost

_LOOK_AGAIN_SECONDS = 1.0
_MAX_UNPUBLISHED = 4
"""Batches that may wait for the finisher; with more, memory would grow without a bound."""
_MAX_UNPUBLISHED_STARVED = 2
"""The same while tenants with few jobs have some here: they would wait behind the others' results.
One that is published and one that waits keep the device as busy, less what evens out jitter."""


class Scheduler:
    """Decides; the runner executes."""

    def __init__(
        self,
        state: WorkerState,
        turns: Turns,
        models: ModelHost,
        shadows: ShadowRunner | None = None,
    ) -> None:
        self._state = state
        self._shadows = shadows
        self._turns = turns
        self._models = models

    def next(self, now: float, device_idle: bool) -> Work:
        """The work to do now, or how long to wait and why. Call it holding the state's lock.

        With a batch still on the device (not device_idle), the work that should follow it at once.
        """
        if task := self._models.next_task():
            return DeviceTask(task)
        if self._is_behind(now):
            return Wait("publishing", None)
        if work := self._next_of_lanes(now, device_idle):
            return work
        why, seconds = self._why_idle(), self._seconds_until_ready(now)
        if self._shadows is not None and why == "no_work" and device_idle:
            return self._beside(self._shadows, now) or Wait(why, seconds)
        return Wait(why, seconds)

    @staticmethod
    def _beside(shadows: ShadowRunner, now: float) -> DeviceTask | Wait | None:
        if task := shadows.next_task(now):
            return DeviceTask(task, "shadow")
        seconds = shadows.due_in(now)
        return None if seconds is None else Wait("no_work", min(seconds, _LOOK_AGAIN_SECONDS))

    def ran(self, lane: Lane, batch: Batch[Execution], seconds: float) -> None:
        """Record that a batch took `seconds` on the device."""
        if batch.regular:
            with self._state.lock:
                lane.batcher.observe(batch.padded_cost, seconds)
        self.touch(lane.spec_of(batch[0]).name)

    def touch(self, model: str) -> None:
        """Record that a model has work."""
        self._models.residency.touch(model)

    def _is_behind(self, now: float) -> bool:
        starved = now <= self._state.starved_until
        most = _MAX_UNPUBLISHED_STARVED if starved else _MAX_UNPUBLISHED
        return self._state.unpublished_batches >= most

    def _next_of_lanes(self, now: float, device_idle: bool) -> Work | None:
        """The work of the lane whose turn it is; or the loading of that lane's model."""
        lanes = self._state.lanes
        candidates = [one for lane in lanes.values() if (one := self._candidate(lane, now))]
        for name in self._turns.order(candidates, now):
            lane = lanes[name]
            if lane.suspects and lane.admission is None and not device_idle:
                return None  # it runs alone: behind other work it would wait forever
            if lane.handler is None:
                self._models.open(lane.spec.name)
                task = self._models.next_task()
                return DeviceTask(task) if task else None
            if work := self._take(lane, now, device_idle):
                return work
        return None

    def _take(self, lane: Lane, now: float, device_idle: bool) -> RunBatch | RunStep | None:
        work = lane.next_work(now, device_idle)
        if work is None:
            return None
        self._turns.took(lane.name, now)
        if isinstance(work, Batch):
            self._state.took(lane, work)
            return RunBatch(lane, work)
        self._state.took(lane, work.joining)
        self._models.residency.touch(lane.spec.name)
        return RunStep(lane, work)

    def may_go_on(self, lane: Lane, now: float) -> bool:
        """Whether the next step of a lane may follow the last at once: nobody waits for the device,
        or to join. Call it holding the lock.
        """
        state = self._state
        if state.stopping.is_set() or self._models.has_tasks() or self._is_behind(now):
            return False
        if lane.admission is None or lane.admission.can_join(lane):
            return False
        others = (one for one in state.lanes.values() if one is not lane)
        return not any(self._candidate(one, now) for one in others)

    def _candidate(self, lane: Lane, now: float) -> Candidate | None:
        if lane.admission is not None:
            waited = lane.admission.waited(lane, now)
            if waited is None:
                return None
            return Candidate(lane.name, waited, lane.spec.weight, steps=True)
        if lane.remote is not None:
            return None  # the device has no part in it
        oldest = lane.oldest()
        if oldest is not None:
            return Candidate(lane.name, now - oldest, lane.spec.weight, lane.is_full())
        if lane.wanted_since is None or not self._models.may_open(lane.spec.name, now):
            return None
        cost = self._models.load_seconds(lane.spec.name)
        return Candidate(lane.name, now - lane.wanted_since, lane.spec.weight, switch_seconds=cost)

    def _why_idle(self) -> Idle:
        """The reason why no work was found."""
        company = decoding = reserving = False
        for lane in self._state.lanes.values():  # one loop: this runs twice for a job alone
            if lane.admission is not None and lane.admission.rows.behind:
                return "publishing"
            company |= lane.remote is None and len(lane.batcher) > 0
            decoding |= bool(lane.waiting or lane.fetching)
            reserving |= lane.asking or bool(lane.ready and lane.room())
        if company:
            return "company"
        if decoding:
            return "decoding"
        if self._models.is_bringing_in():
            return "loading"
        return "reserving" if reserving else "no_work"

    def _seconds_until_ready(self, now: float) -> float | None:
        """How long until a batch is due even if no job arrives; None where none will be due."""
        due: float | None = None
        for lane in self._state.lanes.values():
            if lane.wanted_since is not None:
                due = (
                    now + _LOOK_AGAIN_SECONDS
                    if due is None
                    else min(due, now + _LOOK_AGAIN_SECONDS)
                )
            at = None if lane.generates else lane.batcher.ready_at()
            if at is not None and (due is None or at < due):
                due = at
        return None if due is None else max(0.0, due - now)

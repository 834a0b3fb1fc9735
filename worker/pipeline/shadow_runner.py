"""Has shadows answer the jobs that were answered already, and measures how far they agree.

On the device's thread, as handlers are called by no other, but only while no job is known to wait,
a few jobs at a time, and for a share of the time at most: a job that arrives meanwhile waits for
one such batch. Whatever a shadow raises is counted; its results are thrown away. One that hangs
holds the device, as any model does, and its process is replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import orjson
import structlog

from common.jobs.result_document import dump_result
from worker.guard.calls import Call, Calls, Slot
from worker.guard.raised import RAISED
from worker.jobs import steps
from worker.jobs.execution import Execution
from worker.jobs.served import Served
from worker.lanes.shadow import Shadow, ShadowJob
from worker.lanes.state import WorkerState
from worker.pipeline.finisher import Published
from worker.transfer import is_lost

log = structlog.get_logger(__name__)


class ShadowRunner:
    """Decides when a shadow runs, and runs it."""

    def __init__(
        self,
        state: WorkerState,
        calls: Calls,
        *,
        share: float,
        max_batch: int,
        on_device_lost: Callable[[str], None],
        on_stuck: Callable[[Slot, Call], None],
    ) -> None:
        """share is the most of the device's time; the callables are as the runner's."""
        self._state = state
        self._calls = calls
        self._slot = calls.new_slot()
        self._pause = 1 / share - 1
        self._max_batch = max_batch
        self._on_device_lost, self._on_stuck = on_device_lost, on_stuck
        self._free_at = 0.0

    def look(self, now: float) -> None:
        """Report a batch that takes longer than its limit; the watchdog calls it."""
        if call := self._calls.overdue(self._slot, now):
            self._on_stuck(self._slot, call)

    # -- called by the scheduler, holding the lock, when no job is known to wait ----------

    def next_task(self, now: float) -> Callable[[], None] | None:
        """The next batch of a shadow, of the lane that has most to compare; None while it is not
        due.
        """
        shadow = self._deepest()
        if shadow is None or shadow.served is None or now < self._free_at:
            return None
        served = shadow.served
        jobs = shadow.take(min(self._max_batch, served.spec.max_batch))
        return lambda: self._run(shadow, served, jobs)

    def due_in(self, now: float) -> float | None:
        """How long until a batch is due; None where nothing waits for a shadow."""
        return None if self._deepest() is None else max(0.0, self._free_at - now)

    def _deepest(self) -> Shadow | None:
        deepest = None
        for lane in self._state.lanes.values():  # asked whenever the device has nothing to do
            shadow = lane.shadow
            if shadow and (deepest is None or len(shadow) > len(deepest)):
                deepest = shadow
        return deepest

    # -- on the device thread ---------------------------------------------------------------

    def _run(self, shadow: Shadow, served: Served, jobs: Sequence[ShadowJob]) -> None:
        began = time.monotonic()
        self._slot.enter("shadow", served.spec, began)
        try:
            for job, found in zip(jobs, self._answers(served, jobs), strict=True):
                if found is None:
                    shadow.stats.failed += 1
                else:
                    shadow.stats.agreement.observe(_agreement(job.result, found))
        finally:
            self._slot.leave()
            now = time.monotonic()
            self._free_at = now + (now - began) * self._pause

    def _answers(self, served: Served, jobs: Sequence[ShadowJob]) -> list[bytes | None]:
        """The shadow's results, JSON; None of those that it failed at."""
        executions = [_execution(job) for job in jobs]
        for execution in executions:
            steps.decode(execution, served.spec, served.handler)
        ready = [one for one in executions if one.disposition is None]
        if ready and not self._infer(served, ready) and len(ready) > 1:
            for one in ready:
                self._infer(served, [one])
        return [self._encode(served, one) for one in executions]

    def _infer(self, served: Served, executions: Sequence[Execution]) -> bool:
        items = [one.item for one in executions]
        try:
            steps.infer(executions, served.handler)
        except BaseException as exc:  # noqa: BLE001 - even an exit: it is nobody's job
            RAISED.note(served.spec.name, "infer", exc, shadow=True, jobs=len(executions))
            if is_lost(exc):
                log.error("device_lost_to_a_shadow", model=served.spec.name)
                self._on_device_lost(served.spec.name)
            for one, item in zip(executions, items, strict=True):
                one.item = item
                one.step = "infer"  # it has no output, unless it has one alone
            return False
        for one in executions:
            one.step = "encode"
        return True

    @staticmethod
    def _encode(served: Served, execution: Execution) -> bytes | None:
        if execution.disposition is not None or execution.step != "encode":
            return None
        try:
            return dump_result(served.handler.encode(execution.output))
        except BaseException as exc:  # noqa: BLE001 - as above
            RAISED.note(served.spec.name, "encode", exc, shadow=True)
            return None


def offer_to_shadow(state: WorkerState, published: Published) -> None:
    """Take the jobs whose inputs were kept; a listener of the finisher."""
    shadow = published.lane.shadow
    if shadow is None:
        return
    answered = [one for one in published.finished if one.kept is not None and one.answer]
    jobs = [ShadowJob.of(execution) for execution in answered]
    with state.lock:
        for job in jobs:
            shadow.offer(job)


def _execution(job: ShadowJob) -> Execution:
    execution = Execution(b"", 1, 0, "shadow", 0.0)
    execution.value, execution.blob = job.kept
    execution.params = job.params
    return execution


def _agreement(result: bytes, found: bytes) -> float:
    """0 to 1, or a cosine; results of unlike form do not agree at all."""
    from worker.models.agreement import agreement_of

    try:
        return agreement_of([orjson.loads(result)], [orjson.loads(found)]).value
    except (ValueError, TypeError, LookupError, AttributeError):
        return 0.0

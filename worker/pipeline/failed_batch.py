"""Applies the decision of error_policy.py to the lane and the jobs of a batch that raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from common.errors import AttemptsExhausted, InferTimedOut
from worker.batching.batcher import BatchLimits
from worker.jobs.execution import Execution, Retry, describe
from worker.lanes.lane import Lane
from worker.pipeline.error_policy import Decision, Retries, decide

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Split:
    """The state that the parts of a batch that raised share."""

    limits: BatchLimits
    max_batch: int
    """The cap when the whole batch raised."""


def charge(execution: Execution, decision: Decision, error: BaseException) -> None:
    """Set the disposition of a job that caused the error by itself."""
    if decision.action == "retry":
        execution.disposition = Retry(after_ms=decision.delay_ms)
        execution.step, execution.error = "infer", error
        return
    execution.fail("infer", error)
    if decision.action == "dead":
        text = f"gave up after {execution.attempt} attempts: {describe(execution)}"
        execution.error = AttemptsExhausted(text)


def charge_stuck(batch: Sequence[Execution], seconds: float, retries: Retries) -> bool:
    """Charge the job of a run that did not end within its limit; false where it was not alone.

    Those of a batch are released, and run one by one.
    """
    if len(batch) != 1 or batch[0].disposition is not None:
        return False
    error = InferTimedOut(f"the model did not return from its run within {seconds:g} s")
    charge(batch[0], decide(error, 1, batch[0].attempt, retries), error)
    return True


def set_cap(lane: Lane, decision: Decision, split: Split) -> None:
    """Lower the lane's cap on the batch size; restore it where one job is too large by itself.

    If the size mattered as well, the next full batch raises again and lowers it again.
    """
    limits = split.limits
    if decision.shrink_to is not None and decision.shrink_to < limits.max_batch:
        limits.max_batch = decision.shrink_to
        log.warning("batch_cap_lowered", lane=lane.name, max_batch=limits.max_batch)
    elif decision.too_large_alone and limits.max_batch < split.max_batch:
        limits.max_batch = split.max_batch
        log.warning("batch_cap_restored", lane=lane.name, max_batch=limits.max_batch)

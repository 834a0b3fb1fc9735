"""Applies the decision of error_policy.py to the lane and the jobs of a batch that raised."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from common.errors import AttemptsExhausted
from worker.batching.batcher import BatchLimits
from worker.jobs.execution import Execution, Retry, describe
from worker.lanes.lane import Lane
from worker.pipeline.error_policy import Decision

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

"""What each disposition means for the lease: one table, and the values that go to Redis."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import partial

from common.errors import AttemptsExhausted, FleetError, InvalidInput
from common.redis.keys import flight_name
from worker.jobs.execution import Execution, Hold, Retry, describe, model_is_to_blame, reason_of
from worker.jobs.lease_calls import DeadLetter, Failure, FinishedJob, Flag, RetryJob
from worker.lanes.lane import Lane

_JOIN_RESULT_SECONDS = 10
"""How long identical jobs may join a success. It covers jobs whose cache lookup preceded the
cache write: longer than any submit takes from the lookup to the enqueue."""


class Ending(StrEnum):
    """Which transition ends the lease. Texts, as only those have a hash that is not Python's."""

    FINISH = "publish the result and acknowledge"
    TELL = "the same, and keep the result for a moment only: its client wants none"
    BURY = "publish the failure and keep the message on the dead list"
    RETRY = "delay the message"
    CANCEL = "settle as canceled or expired"
    LAPSE = "nothing: the lease is another's, or is left to lapse"


def ending_of(execution: Execution) -> Ending:
    """The transition for this execution."""
    match execution.disposition:
        case "failed" if _is(execution, AttemptsExhausted):
            return Ending.BURY
        case "succeeded" | "failed":
            return Ending.TELL if execution.ignore_result else Ending.FINISH
        case "unreadable":
            return Ending.BURY
        case Retry() | Hold():
            return Ending.RETRY
        case "canceled" | "expired":
            return Ending.CANCEL
    return Ending.LAPSE


def _is(execution: Execution, kind: type[FleetError]) -> bool:
    # isinstance would ask the error itself, which is a model's own and may raise.
    return issubclass(type(execution.error), kind)


def by_ending(executions: Iterable[Execution]) -> dict[Ending, list[Execution]]:
    """The executions of each transition, in order."""
    plain: list[Execution] = []
    found: dict[Ending, list[Execution]] = {Ending.FINISH: plain}
    for execution in executions:
        if execution.disposition == "succeeded" and not execution.ignore_result:
            plain.append(execution)  # as ending_of says, without a call for each
        else:
            found.setdefault(ending_of(execution), []).append(execution)
    return found


# The class itself would be called through Python code: 0.1 us a job.
_new_finished = partial(tuple.__new__, FinishedJob)


def outcome(execution: Execution, lane: Lane) -> FinishedJob:
    """The finish script's arguments for one job."""
    failure: Failure = ""
    if execution.disposition == "failed":
        failure = "input" if _is(execution, InvalidInput) else "other"
        if model_is_to_blame(execution):
            failure = "model"
    flight: str = ""
    reuse_ms: int | str = ""
    if execution.digest:
        flight = flight_name(lane.name, execution.digest)
        reuse_ms = min(_JOIN_RESULT_SECONDS, max(1, lane.spec.keeps_results_seconds)) * 1000
    blob: Flag = "1" if execution.has_blob else ""
    leads: Flag = "1" if execution.next_steps else ""
    tag, job_id, meta = execution.tag, execution.job_id, execution.meta
    words = (tag, job_id, meta, execution.tenant, flight, reuse_ms, failure, blob, leads)
    return _new_finished(words)


def letter(execution: Execution) -> DeadLetter:
    """The dead letter that the bury script stores for one job."""
    return DeadLetter(
        execution.tag,
        execution.job_id,
        reason_of(execution),
        describe(execution),
        execution.attempt,
        execution.meta,
    )


def delay(execution: Execution) -> RetryJob:
    """The retry script's arguments for one job. The attempt that the reservation counted is
    uncounted where the job was not run.
    """
    tag, job_id, disposition = execution.tag, execution.job_id, execution.disposition
    uncount: Flag = "" if execution.suspect else "1"
    if isinstance(disposition, Hold):
        after_ms = disposition.after_ms
        return RetryJob(tag, job_id, delay_ms=after_ms, unread="1", uncount=uncount)
    assert isinstance(disposition, Retry)
    if disposition.at_ms:
        return RetryJob(tag, job_id, due_ms=disposition.at_ms, uncount=uncount)
    return RetryJob(tag, job_id, delay_ms=disposition.after_ms, error=describe(execution))

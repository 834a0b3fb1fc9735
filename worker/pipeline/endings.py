"""What each disposition means for the lease: one table, and the values that go to Redis."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from common.errors import AttemptsExhausted, InvalidInput
from common.redis.keys import flight_name
from worker.jobs.execution import Execution, Hold, Retry, describe, model_is_to_blame, reason_of
from worker.jobs.leases import DeadLetter, Outcome
from worker.lanes.lane import Lane

_JOIN_RESULT_SECONDS = 10
"""How long a success serves identical jobs that were looked up in the cache before it was
written there: longer than any submit takes from the look-up to the enqueue."""


class Ending(Enum):
    """Which transition ends the lease."""

    FINISH = "publish the result and acknowledge"
    BURY = "publish the failure and keep the message on the dead list"
    RETRY = "delay the message"
    CANCEL = "settle as canceled or expired"
    LAPSE = "nothing: the lease is another's, or is left to lapse"


def ending_of(execution: Execution) -> Ending:
    """The transition for this execution."""
    match execution.disposition:
        case "failed" if isinstance(execution.error, AttemptsExhausted):
            return Ending.BURY
        case "succeeded" | "failed":
            return Ending.FINISH
        case "unreadable":
            return Ending.BURY
        case Retry() | Hold():
            return Ending.RETRY
        case "canceled" | "expired":
            return Ending.CANCEL
    return Ending.LAPSE


def by_ending(executions: Iterable[Execution]) -> dict[Ending, list[Execution]]:
    """The executions of each transition, in order."""
    found: dict[Ending, list[Execution]] = {}
    for execution in executions:
        found.setdefault(ending_of(execution), []).append(execution)
    return found


def outcome(execution: Execution, lane: Lane) -> Outcome:
    """What the finish script is told of one job."""
    kind = ""
    if execution.disposition == "failed":
        kind = "fi" if isinstance(execution.error, InvalidInput) else "f"
        if model_is_to_blame(execution):
            kind = "fm"
    if execution.has_blob:
        kind += "b"
    if execution.digest:
        join_ms = min(_JOIN_RESULT_SECONDS, max(1, lane.spec.keeps_results_seconds)) * 1000
        kind += f":{join_ms} {flight_name(lane.name, execution.digest)}"
    if execution.tenant:
        kind = f"@{execution.tenant} {kind}"
    return Outcome(execution.tag, execution.job_id, execution.meta, kind)


def letter(execution: Execution) -> DeadLetter:
    """What the bury script keeps of one job."""
    return DeadLetter(
        execution.tag,
        execution.job_id,
        reason_of(execution),
        describe(execution),
        execution.attempt,
        execution.meta,
    )


def delay(execution: Execution) -> tuple[bytes, str, str, str, bool]:
    """What the retry script is told of one job: tag, id, when, why, and whether the attempt that
    its lease was counted as is taken back.
    """
    tag, job_id, disposition = execution.tag, execution.job_id, execution.disposition
    if isinstance(disposition, Hold):
        return tag, job_id, f"~{disposition.after_ms}", "", not execution.suspect
    assert isinstance(disposition, Retry)
    if disposition.at_ms:
        return tag, job_id, str(disposition.at_ms), "", not execution.suspect
    return tag, job_id, f"+{disposition.after_ms}", describe(execution), False

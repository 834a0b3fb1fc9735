"""The last step of a job: encodes its output or its error as the result to publish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from common.errors import ResultTooLarge, name_of
from common.jobs.result_document import Stamp, dump_result, with_lineage
from worker.guard.raised import RAISED
from worker.jobs.execution import Execution, describe, module_of, reason_of


class Abandoned(Exception):
    """The calling thread was abandoned in an encode, and another one took its work over."""


class Encoder(Protocol):
    """The thread that encodes, as the watchdog sees it."""

    abandoned: bool
    """Whether another thread took its work over."""


def encode(
    execution: Execution,
    stamp: Stamp,
    encoder: Encoder,
    most_bytes: int,
    watch: Callable[[Execution, Any, bytes], None] | None = None,
) -> None:
    """Encode the output, or the failure, as the result that Celery stores.

    most_bytes is the largest result; watch looks at results, where a lane has one. Raises
    Abandoned, having changed nothing, where another thread took over meanwhile.
    """
    handler = execution.handler
    if execution.disposition is None and handler is not None:
        error, value, result = None, None, b""
        try:
            value = handler.encode(execution.output)
            result = dump_result(value)
            if len(result) > most_bytes:  # Redis would close the connection, try after try
                raise ResultTooLarge(
                    f"the result is {len(result):,} bytes of JSON; "
                    f"LANEFLEET_MAX_RESULT_BYTES allows {most_bytes:,}"
                )
        except BaseException as exc:  # noqa: BLE001 - even an exit: nothing else would be published
            error = exc
        if encoder.abandoned:
            raise Abandoned
        if error is not None:
            execution.fail("encode", error)
            RAISED.note(
                stamp.lane, "encode", error, handler=handler, job_id=ascii(execution.job_id)
            )
        else:
            if execution.digest:
                execution.result = result
            execution.meta = stamp.success(
                result,
                execution.job_id,
                execution.attempt,
                execution.created_ms,
                execution.reserved_ms,
                execution.tenant,
                execution.call,
            )
            execution.disposition = "succeeded"
            if watch is not None:
                watch(execution, value, result)
        execution.output = None
    if execution.disposition == "failed" and execution.error is not None:
        execution.meta = failure_of(execution, stamp)
    if execution.lineage:
        execution.meta = with_lineage(execution.meta, execution.lineage)


def failure_of(execution: Execution, stamp: Stamp) -> bytes:
    """The failure in the form from which `AsyncResult.get()` raises it in any Celery client."""
    return stamp.failure(
        execution.job_id,
        execution.attempt,
        execution.created_ms,
        execution.reserved_ms,
        execution.tenant,
        exc_type=name_of(execution.error),
        exc_module=module_of(execution.error),
        step=execution.step,
        reason=reason_of(execution),
        error=describe(execution),
        call=execution.call,
    )

"""The last step of a job: encodes its output or its error as the result to publish."""

from __future__ import annotations

from common.errors import FleetError
from common.jobs.result_document import Stamp, dump_result, with_lineage
from worker.jobs.execution import Execution, describe, reason_of


def encode(execution: Execution, stamp: Stamp) -> None:
    """Encode the output, or the failure, as the result that Celery stores."""
    handler = execution.handler
    if execution.disposition is None and handler is not None:
        try:
            result = dump_result(handler.encode(execution.output))
        except BaseException as exc:  # noqa: BLE001 - even an exit: nothing else would be published
            execution.fail("encode", exc)
        else:
            execution.disposition = "succeeded"
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
        exc_type=type(execution.error).__name__,
        exc_module=getattr(execution.error, "celery_module", FleetError.celery_module),
        step=execution.step,
        reason=reason_of(execution),
        error=describe(execution),
        call=execution.call,
    )

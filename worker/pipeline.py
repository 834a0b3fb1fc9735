"""A job inside the worker: `parse -> decode -> infer -> encode` over one Execution.

Each step leaves a settled execution alone, so a batch in which some failed
goes through the same calls as one in which none did. A step that raises is
named in the job's error.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from common.catalog import ModelSpec
from common.errors import FleetError, InferenceFailed, InvalidInput, UnreadableMessage
from common.inputs import BLOB_REFERENCE, materialize
from worker.lease import Lease
from worker.models.base import Model

Step = Literal["parse", "decode", "infer", "encode"]
Settled = Literal["succeeded", "failed", "expired", "canceled", "unreadable", "parked", "lost"]

TASK_NAME = "infer"
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(slots=True, eq=False)
class Execution:
    """One leased job on its way through the worker. Times are seconds on the steady clock."""

    tag: bytes
    attempt: int
    job_id: str
    value: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    has_blob: bool = False
    blob: bytes | None = None
    expires_at: float | None = None
    """Unix seconds after which the job must not run."""
    deadline: float | None = None
    """Unix seconds after which no result may be published."""
    eta: float | None = None
    """Unix seconds before which the job must not run."""
    arrived: float = 0.0
    started: float = 0.0
    item: Any = None
    cost: float = 1.0
    output: Any = None
    settled: Settled | None = None
    step: Step = "parse"
    error: BaseException | None = None
    meta: bytes = b""

    @property
    def suspect(self) -> bool:
        """Whether the job has been tried before; then it runs alone."""
        return self.attempt > 1

    def fail(self, step: Step, error: BaseException) -> None:
        """Settle as failed in this step, unless settled already."""
        if self.settled is None:
            self.settled, self.step, self.error = "failed", step, error


def parse(lease: Lease, lane: str, now: float) -> Execution:
    """Read a lease's message. Never raises: what cannot be read is settled as unreadable."""
    try:
        message = _loads(lease.message)
        headers = message["headers"]
        execution = Execution(lease.tag, lease.attempt, str(headers["id"]), arrived=now)
    except _UNREADABLE as exc:
        lost = Execution(lease.tag, lease.attempt, "", arrived=now)
        lost.settled, lost.error = "unreadable", UnreadableMessage(f"not a Celery message: {exc}")
        return lost
    try:
        _read_call(execution, message, headers, lane)
    except UnreadableMessage as exc:
        execution.settled, execution.error = "unreadable", exc
    except InvalidInput as exc:
        execution.fail("parse", exc)
    return execution


def _read_call(
    execution: Execution, message: dict[str, Any], headers: dict[str, Any], lane: str
) -> None:
    task = headers.get("task")
    if task != TASK_NAME:
        raise UnreadableMessage(f"unknown task {str(task)[:80]!r}; lanes run only {TASK_NAME!r}")
    content_type = message.get("content-type")
    if content_type != "application/json":
        raise UnreadableMessage(f"content type {content_type!r} is refused; send JSON")
    try:
        kwargs = _call_kwargs(message)
        execution.eta = _timestamp(headers.get("eta"))
        execution.expires_at = _timestamp(headers.get("expires"))
        deadline_ms = headers.get("deadline_ms")
        execution.deadline = None if deadline_ms is None else float(deadline_ms) / 1000
    except _UNREADABLE as exc:
        raise UnreadableMessage(f"its body is not a Celery call: {exc}") from exc
    model = kwargs.get("model", lane)
    if model != lane:
        raise InvalidInput(f"the job names model {str(model)[:80]!r} but was sent to lane {lane!r}")
    if "input" not in kwargs:
        raise InvalidInput("the call has no `input`; send kwargs={'model': ..., 'input': ...}")
    params = kwargs.get("params") or {}
    if not isinstance(params, dict):
        raise InvalidInput("`params` must be an object")
    execution.value, execution.params = kwargs["input"], params
    execution.has_blob = execution.value == BLOB_REFERENCE


def _call_kwargs(message: dict[str, Any]) -> dict[str, Any]:
    body = message["body"]
    if message.get("properties", {}).get("body_encoding") == "base64":
        body = base64.b64decode(body)
    args, kwargs, _embed = _loads(body)
    if not isinstance(kwargs, dict) or not isinstance(args, list):
        raise TypeError("args and kwargs must be a list and an object")
    return (
        {**dict(zip(("model", "input", "params"), args, strict=False)), **kwargs}
        if args
        else kwargs
    )


def _loads(raw: bytes | str) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)  # NaN and great depth, which other clients may send


def _timestamp(value: str | float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no time")
        return float(value)
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def decode(execution: Execution, spec: ModelSpec, handler: Model) -> None:
    """Turn the input into an item and its cost."""
    if execution.settled is not None:
        return
    try:
        value = materialize(spec.input, execution.value, execution.blob)
        execution.item = handler.decode(value, execution.params)
        execution.cost = handler.cost(execution.item)
    except Exception as exc:  # noqa: BLE001 - whatever a handler raises is this job's error
        execution.fail("decode", exc)
    execution.value = execution.blob = None


def infer(executions: Sequence[Execution], handler: Model) -> None:
    """Run one batch; raises what the model raises. All must be unsettled."""
    outputs = handler.infer([execution.item for execution in executions])
    if len(outputs) != len(executions):
        raise InferenceFailed(
            f"the model returned {len(outputs)} outputs for {len(executions)} items"
        )
    for execution, output in zip(executions, outputs, strict=True):
        execution.output = output
        execution.item = None


def encode(execution: Execution, handler: Model, date_done: bytes) -> None:
    """Turn the output into the result as Celery stores it, or the failure likewise."""
    if execution.settled is None:
        try:
            result = dump_result(handler.encode(execution.output))
        except Exception as exc:  # noqa: BLE001 - whatever a handler raises is this job's error
            execution.fail("encode", exc)
        else:
            execution.settled = "succeeded"
            execution.meta = b"".join(
                (
                    b'{"status":"SUCCESS","result":',
                    result,
                    b',"traceback":null,"children":[],"date_done":"',
                    date_done,
                    b'","task_id":"',
                    execution.job_id.encode(),
                    b'"}',
                )
            )
        execution.output = None
    if execution.settled == "failed" and execution.error is not None:
        execution.meta = failure_meta(execution, date_done)


def dump_result(value: Any) -> bytes:
    """The value as JSON; raises ValueError for NaN, which orjson would turn into null."""
    dumped = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in dumped:
        json.dumps(value, allow_nan=False, default=str)
    return dumped


def failure_meta(execution: Execution, date_done: bytes) -> bytes:
    """The failure as `AsyncResult.get()` raises it in any Celery client."""
    error = execution.error
    return orjson.dumps(
        {
            "status": "FAILURE",
            "result": {
                "exc_type": type(error).__name__,
                "exc_message": [describe(execution)],
                "exc_module": "lanefleet",
            },
            "traceback": f"in step {execution.step}",
            "children": [],
            "date_done": date_done.decode(),
            "task_id": execution.job_id,
        }
    )


def describe(execution: Execution) -> str:
    """One sentence about what went wrong, for the job's owner."""
    error = execution.error
    if isinstance(error, FleetError):
        return str(error)
    return f"{execution.step} failed: {type(error).__name__}: {str(error)[:500]}"


def reason_of(execution: Execution) -> str:
    """The stable machine-readable reason."""
    error = execution.error
    if isinstance(error, FleetError):
        return error.code
    return f"{execution.step}_failed"

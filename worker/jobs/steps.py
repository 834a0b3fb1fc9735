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
from common.errors import FleetError, InferenceFailed, InvalidInput, UnreadableMessage, text_of
from common.inputs.checks import BLOB_REFERENCE, materialize
from common.trace import read_traceparent
from worker.jobs.leases import Lease
from worker.lanes.stages import Passage
from worker.models.base import Model
from worker.transfer import Later

Step = Literal["parse", "decode", "infer", "encode"]
Settled = Literal["succeeded", "failed", "expired", "canceled", "unreadable", "parked", "lost"]

TASK_NAME = "infer"
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(eq=False)
class Execution:
    """One leased job on its way through the worker. Times are seconds on the steady clock.

    Without slots, so that what most jobs never set costs nothing to make.
    """

    tag: bytes
    attempt: int
    created_ms: int
    job_id: str
    arrived: float
    tenant: str = ""
    value: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    digest: str = field(default="", init=False)
    """Under which its result may be kept, and its run shared; empty where neither may be."""
    weights: str = field(default="", init=False)
    """The fingerprint that the model must have for that."""
    result: bytes = field(default=b"", init=False)
    """JSON, when it may be kept."""
    key: str | None = field(default=None, init=False)
    """Equal for equal inputs; None where each must run."""
    handler: Model | None = field(default=None, init=False)
    """Who decoded it, and must run it: an alias may point elsewhere by then."""
    version: str = field(default="", init=False)
    reserved_ms: int = field(default=0, init=False)
    """When it was reserved, Unix milliseconds of the Redis server."""
    has_blob: bool = field(default=False, init=False)
    blob: bytes | None = field(default=None, init=False)
    stored: bool = field(default=False, init=False)
    """Whether the input lies in LANEFLEET_BLOB_URL."""
    input_url: str | None = field(default=None, init=False)
    expires_at: float | None = field(default=None, init=False)
    """Unix seconds after which the job must not run."""
    deadline: float | None = field(default=None, init=False)
    """Unix seconds after which no result may be published."""
    eta: float | None = field(default=None, init=False)
    """Unix seconds before which the job must not run."""
    passage: Passage | None = field(default=None, init=False)
    """When it was decoded, and with whom."""
    started: float = field(default=0.0, init=False)
    traceparent: str = field(default="", init=False)
    """The W3C trace that it belongs to; empty for most."""
    item: Any = field(default=None, init=False)
    cost: float = field(default=1.0, init=False)
    output: Any = field(default=None, init=False)
    settled: Settled | None = field(default=None, init=False)
    step: Step = field(default="parse", init=False)
    error: BaseException | None = field(default=None, init=False)
    meta: bytes = field(default=b"", init=False)

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
    tag, attempt, origin, raw = lease
    created, _, owner = origin.partition(b":")
    created_ms, tenant = int(created), owner.decode()
    try:
        message = _loads(raw)
        headers = message["headers"]
        job_id = str(headers["id"])
        job_id.encode()  # half a surrogate pair could name no key
        execution = Execution(tag, attempt, created_ms, job_id, now, tenant)
    except _UNREADABLE as exc:
        lost = Execution(tag, attempt, created_ms, "", now, tenant)
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
        _read_limits(execution, headers)
    except _UNREADABLE as exc:
        raise UnreadableMessage(f"its body is not a Celery call: {exc}") from exc
    model = kwargs.get("model", lane)
    if model != lane:
        raise InvalidInput(f"the job names model {str(model)[:80]!r} but was sent to lane {lane!r}")
    params = kwargs.get("params") or {}
    if not isinstance(params, dict):
        raise InvalidInput("`params` must be an object")
    execution.params = params
    if "input" not in kwargs:
        execution.input_url = _read_url(kwargs)
        return
    execution.value = kwargs["input"]
    if execution.value == BLOB_REFERENCE:
        execution.has_blob = True
    else:
        execution.key = message["body"]


def _read_url(kwargs: dict[str, Any]) -> str:
    url = kwargs.get("input_url")
    if not isinstance(url, str):
        raise InvalidInput(
            "the call has no `input`; send kwargs={'model': ..., 'input': ...}, or `input_url`"
        )
    return url


def _read_limits(execution: Execution, headers: dict[str, Any]) -> None:
    if "traceparent" in headers:
        execution.traceparent = read_traceparent(headers["traceparent"])
    if (eta := headers.get("eta")) is not None:
        execution.eta = _timestamp(eta)
    if (expires := headers.get("expires")) is not None:
        execution.expires_at = _timestamp(expires)
    ticket = headers.get("cache")
    if isinstance(ticket, str):
        execution.digest, _, execution.weights = ticket.partition(" ")
    if (deadline_ms := headers.get("deadline_ms")) is not None:
        execution.deadline = _timestamp(float(deadline_ms)) / 1000


def _call_kwargs(message: dict[str, Any]) -> dict[str, Any]:
    body = message["body"]
    if message.get("properties", {}).get("body_encoding") == "base64":
        body = base64.b64decode(body)
    args, kwargs, _embed = _loads(body)
    if not isinstance(kwargs, dict) or not isinstance(args, list):
        raise TypeError("args and kwargs must be a list and an object")
    if not args:
        return kwargs
    return {**dict(zip(("model", "input", "params"), args, strict=False)), **kwargs}


def _loads(raw: bytes | str) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)  # NaN and great depth, which other clients may send


def _timestamp(value: str | float) -> float:
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
        execution.handler, execution.version = handler, spec.version
        execution.item = handler.decode(value, execution.params)
        execution.cost = cost = handler.cost(execution.item)
        if not 0 <= cost < math.inf:
            raise InferenceFailed(f"the model says that this input costs {cost}")
    except Exception as exc:  # noqa: BLE001 - whatever a handler raises is this job's error
        execution.fail("decode", exc)
    execution.value = execution.blob = None


def infer(executions: Sequence[Execution], handler: Model) -> None:
    """Run one batch to its end; raises what the model raises. All must be unsettled."""
    outputs = launch(executions, handler)
    accept(executions, outputs.wait() if isinstance(outputs, Later) else outputs)


def launch(executions: Sequence[Execution], handler: Model) -> Sequence[Any] | Later:
    """Start one batch: its outputs, or what they will be once the device is done."""
    return handler.infer([execution.item for execution in executions])


def accept(executions: Sequence[Execution], outputs: Sequence[Any]) -> None:
    """Take the outputs of a batch; raises where they are not one for each."""
    if len(outputs) != len(executions):
        raise InferenceFailed(
            f"the model returned {len(outputs)} outputs for {len(executions)} items"
        )
    for execution, output in zip(executions, outputs, strict=True):
        execution.output = output
        execution.item = None


def share_outputs(runs: Sequence[Sequence[Execution]]) -> None:
    """Give what the first of each run got to the others, whose input is the same."""
    for first, *others in runs:
        for execution in others:
            execution.output = first.output
            execution.item = None


class Stamp:
    """What the results of one batch have in common, as bytes of JSON."""

    def __init__(
        self,
        lane: str,
        version: str,
        worker: str,
        batch_size: int,
        infer_ms: float,
        finished_ms: int,
    ) -> None:
        self.date_done = datetime.now(UTC).isoformat()
        self.about: dict[str, Any] = {
            "lane": lane,
            "version": version,
            "worker": worker,
            "batch_size": batch_size,
            "infer_ms": round(infer_ms, 3),
            "finished_ms": finished_ms,
        }
        self.before_id = (
            b',"traceback":null,"children":[],"date_done":"%s","task_id":"'
            % self.date_done.encode()
        )
        self.after_id = b'","lanefleet":{"state":"succeeded",%s,"attempts":' % orjson.dumps(
            self.about
        ).strip(b"{}")


def encode(execution: Execution, stamp: Stamp) -> None:
    """Turn the output into the result as Celery stores it, or the failure likewise."""
    handler = execution.handler
    if execution.settled is None and handler is not None:
        try:
            result = dump_result(handler.encode(execution.output))
        except Exception as exc:  # noqa: BLE001 - whatever a handler raises is this job's error
            execution.fail("encode", exc)
        else:
            execution.settled = "succeeded"
            if execution.digest:
                execution.result = result
            execution.meta = (
                b'{"status":"SUCCESS","result":%b%b%b%b%d,"created_ms":%b,"started_ms":%d%b}}'
                % (
                    result,
                    stamp.before_id,
                    execution.job_id.encode(),
                    stamp.after_id,
                    execution.attempt,
                    b"%d" % execution.created_ms if execution.created_ms else b"null",
                    execution.reserved_ms,
                    b',"tenant":"%b"' % execution.tenant.encode() if execution.tenant else b"",
                )
            )
        execution.output = None
    if execution.settled == "failed" and execution.error is not None:
        execution.meta = failure_meta(execution, stamp)


def dump_result(value: Any) -> bytes:
    """The value as JSON; raises ValueError for NaN, which orjson would turn into null."""
    dumped = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in dumped:
        json.dumps(value, allow_nan=False, default=str)
    return dumped


def failure_meta(execution: Execution, stamp: Stamp) -> bytes:
    """The failure as `AsyncResult.get()` raises it in any Celery client."""
    error, text = execution.error, describe(execution)
    about = {
        "state": "failed",
        **stamp.about,
        "attempts": execution.attempt,
        "created_ms": execution.created_ms or None,
        "started_ms": execution.reserved_ms,
        "reason": reason_of(execution),
        "error": text,
    }
    if execution.tenant:
        about["tenant"] = execution.tenant
    return orjson.dumps(
        {
            "status": "FAILURE",
            "result": {
                "exc_type": type(error).__name__,
                "exc_message": [text],
                "exc_module": "lanefleet",
            },
            "traceback": f"in step {execution.step}",
            "children": [],
            "date_done": stamp.date_done,
            "task_id": execution.job_id,
            "lanefleet": about,
        }
    )


def describe(execution: Execution) -> str:
    """One sentence about what went wrong, for the job's owner."""
    error, text = execution.error, text_of(execution.error)
    if isinstance(error, FleetError):
        return text
    return f"{execution.step} failed: {type(error).__name__}: {text[:500]}"


def reason_of(execution: Execution) -> str:
    """The stable machine-readable reason."""
    error = execution.error
    if isinstance(error, FleetError):
        return error.code
    return f"{execution.step}_failed"


def model_is_to_blame(execution: Execution) -> bool:
    """Whether a job that failed for good did so after the model took its input."""
    return execution.step in ("infer", "encode") and not isinstance(execution.error, InvalidInput)

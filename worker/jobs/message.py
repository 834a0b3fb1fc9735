"""Parses a leased message: Celery protocol 2, JSON, from the front or from any Celery client."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from hashlib import sha1
from typing import Any

from common.errors import InvalidInput, UnreadableMessage
from common.inputs.checks import BLOB_REFERENCE
from common.jobs.message import TASK_NAME
from common.trace import read_traceparent
from worker.jobs.body import MAX_UNPACKED_BYTES, loads, read_body
from worker.jobs.execution import Execution
from worker.jobs.json_pointer import resolve
from worker.jobs.leases import Lease
from worker.jobs.next_steps import lineage_of, read_next_steps

_POSITIONS = ("model", "input", "params")
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_NO_TIME = 1e15
"""From here on milliseconds of it would not fit the integers of Redis."""
_KNOWN = frozenset((*_POSITIONS, "input_url", "pick"))


def parse(
    lease: Lease, lane: str, now: float, max_unpacked_bytes: int = MAX_UNPACKED_BYTES
) -> Execution:
    """Read a lease's message. Never raises: what cannot be read ends as unreadable."""
    tag, attempt, origin, raw = lease
    created, _, owner = origin.partition(b":")
    created_ms, tenant = int(created), owner.decode()
    try:
        message = loads(raw)
        headers = message["headers"]
        job_id = str(headers["id"])
        job_id.encode()  # a lone surrogate cannot be encoded in a key
        execution = Execution(tag, attempt, created_ms, job_id, now, tenant)
    except _UNREADABLE as exc:
        lost = Execution(tag, attempt, created_ms, "", now, tenant)
        lost.disposition, lost.error = (
            "unreadable",
            UnreadableMessage(f"not a Celery message: {exc}"),
        )
        return lost
    try:
        if not created_ms:
            _note_call(execution, message)
        _read_call(execution, message, lane, max_unpacked_bytes)
    except UnreadableMessage as exc:
        execution.disposition, execution.error = "unreadable", exc
    except InvalidInput as exc:
        execution.fail("parse", exc)
    except _UNREADABLE as exc:  # what a refusal names may nest deeper than can be printed
        text = f"its call cannot be read: {type(exc).__name__}"
        execution.disposition, execution.error = "unreadable", UnreadableMessage(text)
    return execution


def _read_call(
    execution: Execution, message: dict[str, Any], lane: str, max_unpacked_bytes: int
) -> None:
    headers = message["headers"]
    task = headers.get("task")
    if task != TASK_NAME:
        raise UnreadableMessage(f"unknown task {str(task)[:80]!r}; lanes run only {TASK_NAME!r}")
    content_type = message.get("content-type")
    if content_type != "application/json":
        raise UnreadableMessage(f"content type {content_type!r} is refused; send JSON")
    try:
        args, kwargs, embed = read_body(message, max_unpacked_bytes)
        _read_limits(execution, headers)
    except _UNREADABLE as exc:
        raise UnreadableMessage(f"its body is not a Celery call: {exc}") from exc
    # Asked first, as most messages have none of it, and a call costs 0.1 us a job.
    if embed or headers.get("parent_id") or headers.get("group") or headers.get("webhook"):
        execution.next_steps = read_next_steps(embed, headers)
        execution.lineage = lineage_of(headers, [])
    if args:
        kwargs = _with_positional(args, kwargs, lane)
    _take_call(execution, kwargs, lane, message["body"])


def _take_call(execution: Execution, kwargs: dict[str, Any], lane: str, body: str | None) -> None:
    if not _KNOWN.issuperset(kwargs):  # half of what comparing keys takes
        raise InvalidInput(_unknown(kwargs))
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
    if kwargs.get("input_url") is not None:
        raise InvalidInput("the call has both `input` and `input_url`; send one of them")
    execution.value = kwargs["input"]
    if (pointer := kwargs.get("pick")) is not None:
        execution.value = _picked(execution.value, pointer)
    if execution.value == BLOB_REFERENCE:
        execution.has_blob = True
    else:
        execution.key = body


def _note_call(execution: Execution, message: dict[str, Any]) -> None:
    """For who chose the id without our front: it may be met again."""
    if isinstance(body := message.get("body"), str):
        digest = sha1(body.encode("utf-8", "replace"), usedforsecurity=False)
        execution.call = digest.hexdigest()


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
    if "timelimit" in headers:
        _read_options(execution, headers)
    if (deadline_ms := headers.get("deadline_ms")) is not None:
        execution.deadline = _timestamp(float(deadline_ms)) / 1000


def _with_positional(args: list[Any], kwargs: dict[str, Any], lane: str) -> dict[str, Any]:
    """The kwargs with what came by position: the input, which a chain or chord puts first; or
    model, input and params, where the first names this lane.
    """
    if len(args) == 1:
        named = {"input": args[0]}
    elif len(args) <= len(_POSITIONS) and args[0] == lane:
        named = dict(zip(_POSITIONS, args, strict=False))
    else:
        raise InvalidInput(
            f"{len(args)} positional arguments; `infer` takes one, its input, and all else by name"
        )
    if twice := named.keys() & kwargs.keys() - {"model"}:
        raise InvalidInput(
            f"`{min(twice)}` came by name and by position; a step of a chain that has an input of "
            "its own must be immutable: `.si(...)`"
        )
    if "input_url" in kwargs and "input" in named:
        raise InvalidInput("`input_url` came with an input by position; send one of them")
    return {**named, **kwargs}


def _picked(value: Any, pointer: Any) -> Any:
    """The part of the input that `pick` names."""
    if not isinstance(pointer, str):
        raise InvalidInput("`pick` must be text: a JSON Pointer such as '/label'")
    try:
        return resolve(value, pointer)
    except (ValueError, LookupError) as exc:
        raise InvalidInput(f"`pick`: {exc.args[0]}") from None


def _read_options(execution: Execution, headers: dict[str, Any]) -> None:
    """What every message of Celery's own clients has beside; ours have none of it."""
    hard, soft = headers["timelimit"] or (None, None)
    if hard or soft:
        execution.time_limits = (_seconds(hard), _seconds(soft))
    execution.ignore_result = headers.get("ignore_result") is True
    if names := headers.get("stamped_headers"):
        stamps = headers.get("stamps") or {}
        execution.stamps = {name: stamps[name] for name in names if name in stamps}


def _seconds(limit: Any) -> float | None:
    if not limit:
        return None
    seconds = float(limit)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{limit} is no time limit")
    return seconds


def _unknown(kwargs: dict[str, Any]) -> str:
    names = ", ".join(f"`{str(name)[:80]}`" for name in sorted(kwargs.keys() - _KNOWN)[:10])
    return (
        f"`infer` does not take {names}; it takes `model`, `input` or `input_url`, and `params`. "
        "What a model takes goes into `params`"
    )


def _timestamp(value: str | float) -> float:
    if isinstance(value, int | float):
        if not abs(value) < _NO_TIME:  # neither is NaN
            raise ValueError(f"{value} is no time")
        return float(value)
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

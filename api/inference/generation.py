"""Generation as one request: `/v1/generate` read as a job, and its result as the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.http.problems import Problem
from api.http.request_errors import InvalidRequest, WrongResult
from api.inference.task_run import model_for
from api.jobs.links import job_path
from api.jobs.request import JobRequest, job_request
from api.services import Services
from common.generation.inputs import TASK
from common.generation.options import GenerateOptions, InvalidOption, read_options
from common.jobs.record import JobRecord, JobState

_JOB_FIELDS = ("priority", "labels", "cache", "deadline", "start_within", "webhook")
INPUTS_FAULT = frozenset(
    {"invalid_input", "invalid_request", "unsupported_media", "decode_timeout", "prompt_too_long"}
)
"""Reasons of failures for which the request is at fault."""
_GONE = frozenset({JobState.CANCELED, JobState.EXPIRED})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A generation that is asked for by one request, as a job."""

    request: JobRequest
    options: GenerateOptions

    @property
    def cancels(self) -> bool:
        """Whether the job is canceled when its client leaves before its end."""
        return self.options.on_disconnect != "continue"


def wanted_of(services: Services, document: Any) -> Wanted:
    """What a body of `/v1/generate` asks for; raises InvalidRequest, or an error of its model."""
    if not isinstance(document, dict) or "text" not in document:
        raise InvalidRequest('send an object such as {"text": "Once upon a time"}')
    if not isinstance(document["text"], str):
        raise InvalidRequest("`text`: send a text")
    name = document.get("model")
    if name is not None and not isinstance(name, str):
        raise InvalidRequest("`model`: send a name from /v1/models")
    taken = ("text", "model", *_JOB_FIELDS)
    sent = {name: value for name, value in document.items() if name not in taken}
    fields = {name: document[name] for name in _JOB_FIELDS if name in document}
    options = _options_of(sent)
    return wanted(model_for(services, TASK, name), document["text"], sent, options, fields)


def wanted(
    model: str,
    value: Any,
    params: Mapping[str, Any],
    options: GenerateOptions,
    fields: Mapping[str, Any] | None = None,
) -> Wanted:
    """The job for this prompt. What becomes of it when its client leaves is not the worker's."""
    sent = {name: one for name, one in params.items() if name != "on_disconnect"}
    document = {**(fields or {}), "model": model, "input": value, "params": sent}
    return Wanted(job_request(document), options)


def _options_of(sent: dict[str, Any]) -> GenerateOptions:
    """The options; what is sent under names of this route has the names of `params` afterwards."""
    shorter = "max_length" in sent
    if shorter:
        if "max_tokens" in sent:
            raise InvalidRequest("`max_length`: it is `max_tokens` by another name; send one")
        sent["max_tokens"] = sent.pop("max_length")
    if isinstance(sent.get("stop"), str):
        sent["stop"] = [sent["stop"]]
    try:
        return read_options(sent)
    except InvalidOption as exc:
        option = "max_length" if shorter and exc.option == "max_tokens" else exc.option
        raise InvalidRequest(f"`{option}`: {exc.problem}", param=option) from exc


def answer_of(record: JobRecord) -> dict[str, Any]:
    """The answer of `/v1/generate`; raises WrongResult, or a problem where it has none."""
    raise_failure(record)
    result = record.value
    try:
        answer = {
            "generated_text": result["text"],
            "inference_time": _seconds_of(record),
            "model_version": record.version,
            "request_id": record.id,
            "finish_reason": result["finish_reason"],
            "usage": result["usage"],
        }
        also = {name: result[name] for name in ("seed", "choices") if name in result}
    except (TypeError, KeyError) as exc:
        raise wrong_result(record.lane) from exc
    return {**answer, **also, **({"cached": True} if record.cached else {})}


def wrong_result(model: str) -> WrongResult:
    """The error of a model whose result is not that of a generator."""
    return WrongResult(f"{model!r} is for generate in the catalog, but its result has no `text`")


def raise_failure(record: JobRecord, **headers: str) -> None:
    """Raise the problem of a job that is settled without a result."""
    if record.state is JobState.SUCCEEDED or not record.state.terminal:
        return
    reason = record.reason or record.state.value
    detail = record.error or reason
    about: dict[str, Any] = {"headers": headers or None, "job": job_path(record.id)}
    if record.state in _GONE:
        raise Problem(410, f"job_{record.state.value}", detail, reason=reason, **about)
    raise Problem(422 if reason in INPUTS_FAULT else 500, reason, detail, **about)


def _seconds_of(record: JobRecord) -> float:
    """How long it ran on the device, or in the worker where that is not known."""
    if record.infer_ms is not None:
        return round(record.infer_ms / 1000, 6)
    if record.started_ms and record.finished_ms:
        return (record.finished_ms - record.started_ms) / 1000
    return 0.0

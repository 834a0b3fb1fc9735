"""The lines of a batch's files, in OpenAI's shape, from the results of its jobs. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from common.batches.embeddings import embeddings_body
from common.batches.lines import EMBEDDINGS, Request
from common.errors import MessageTooLarge
from common.generation.openai_answers import answer_of
from common.generation.openai_requests import ENDPOINTS as GENERATION
from common.jobs.record import JobRecord, JobState

_INPUTS_FAULT = frozenset(
    {
        *("invalid_input", "invalid_request", "unknown_model", "unsupported_media"),
        *("input_too_large", "input_url_refused", "input_url_failed", "decode_timeout"),
        *("message_too_large", "wrong_task", "prompt_too_long"),
    }
)
_CODES = {"unknown_model": "model_not_found", "prompt_too_long": "context_length_exceeded"}


def answer_line(
    batch: str, endpoint: str, request: Request, records: Sequence[JobRecord]
) -> tuple[bool, bytes]:
    """Whether the request succeeded, and its line of the output or the error file."""
    error = request.error
    if error is not None:
        status = 413 if isinstance(error, MessageTooLarge) else 400
        return False, _failure(batch, request, status, error.code, str(error))
    for index, record in enumerate(records):
        if record.state is not JobState.SUCCEEDED:
            reason = record.reason or record.state.value
            text = record.error or reason
            if not request.one:
                text = f"{request.listed}[{index}]: {text}"
            status = 400 if reason in _INPUTS_FAULT else 500
            return False, _failure(batch, request, status, reason, text, record.id)
    try:
        body = _body(endpoint, request, records)
    except (TypeError, KeyError, AttributeError):
        task, field = ("generate", "text") if endpoint in GENERATION else ("embed", "embedding")
        text = f"{request.model!r} is for {task} in the catalog, but its result has no `{field}`"
        return False, _failure(batch, request, 500, "wrong_result", text)
    response = {
        "status_code": 200,
        "request_id": records[0].id,
        "body": orjson.Fragment(body),
    }
    return True, _line(batch, request, response, None)


def unfinished_line(batch: str, number: int, custom_id: str, window: str) -> bytes:
    """The line of a request that did not end before its batch expired."""
    error = {
        "code": "batch_expired",
        "message": f"this request was not done before the completion window of {window} ended",
    }
    return _line(batch, Request(number, custom_id, 0), None, error)


def _body(endpoint: str, request: Request, records: Sequence[JobRecord]) -> bytes:
    if endpoint == EMBEDDINGS:
        results = [record.value for record in records]
        return embeddings_body(request.model, results, request.dimensions, request.base64)
    if endpoint in GENERATION:
        return answer_of(endpoint, request.model, records)
    record = records[0]
    return orjson.dumps(
        {"id": record.id, "state": record.state, "model": request.model, "result": record.result}
    )


def _failure(
    batch: str, request: Request, status: int, code: str, message: str, job_id: str = ""
) -> bytes:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": _CODES.get(code, code)}
    response = {
        "status_code": status,
        "request_id": job_id or _request_id(batch, request.number),
        "body": {"error": error},
    }
    return _line(batch, request, response, None)


def _line(
    batch: str, request: Request, response: dict[str, Any] | None, error: dict[str, str] | None
) -> bytes:
    document = {
        "id": _request_id(batch, request.number),
        "custom_id": request.custom_id,
        "response": response,
        "error": error,
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _request_id(batch: str, number: int) -> str:
    digest = hashlib.sha256(f"{batch}:{number}".encode()).hexdigest()
    return f"batch_req_{digest[:32]}"

"""`/v1/embeddings` as OpenAI has it, so that its stock client and all that build on it work.

All inputs or none: the shape has no place for one input's error, so the
first that fails is the request's, and what still runs is cancelled, since
nobody could fetch it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.cache.directives import cache_wish
from api.dependencies import ServicesDep
from api.http.bodies import is_json, media_type, parse_json, read_body
from api.http.problems import Problem, responses, validation_problem
from api.inference import task_run as gather
from api.inference.openai import (
    EmbeddingsAnswer,
    EmbeddingsRequest,
    OpenAIErrorBody,
    OpenAIRoute,
    embeddings_json,
)
from api.inference.task_run import Outcome, TaskCall
from api.routes.job_lookup import json_response
from api.services import Services
from api.tenants.auth import SubmitDep
from common.jobs.record import JobState

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)

_CANCELS_AT_ONCE = 16
_INPUTS_FAULT = frozenset({"invalid_input", "unsupported_media", "decode_timeout"})
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": EmbeddingsRequest.model_json_schema(),
                "examples": {
                    "one": {
                        "summary": "One text",
                        "value": {"model": "minilm", "input": "The quick brown fox."},
                    },
                    "many": {
                        "summary": "Several, as base64",
                        "value": {
                            "model": "minilm",
                            "input": ["A cat on a mat.", "A dog on a log."],
                            "encoding_format": "base64",
                        },
                    },
                },
            }
        },
    }
}


def _errors(**by_status: str) -> dict[int | str, dict[str, Any]]:
    """OpenAI's envelope by status; what is refused before the route is a problem document."""
    return {
        status: {**declared, "model": OpenAIErrorBody}
        for status, declared in responses(**by_status).items()
    }


@router.post(
    "/embeddings",
    response_model=EmbeddingsAnswer,
    openapi_extra=_BODY,
    responses=_errors(
        s400="Not JSON, or a field is missing or wrong.",
        s401="No API key, or one that is not valid.",
        s403="The API key lacks the scope.",
        s404="No such model.",
        s413="The body is too large.",
        s415="Not JSON by its content type.",
        s429="The lane is full.",
        s500="The model failed.",
        s503="The queue cannot be reached.",
        s504="Not done in time; what was not is cancelled.",
    ),
)
async def create_embeddings(
    request: Request, services: ServicesDep, principal: SubmitDep
) -> Response:
    """Vectors of texts, in OpenAI's shape, errors too."""
    asked = _read(await _document(request, services))
    model = gather.model_for(services, "embed", asked.model)
    _check_dimensions(services, asked)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    wish = cache_wish(request.headers.get("cache-control"))
    prepared = gather.prepare(services, TaskCall(model, {}, texts, principal, wish=wish))
    for index, one in enumerate(prepared):
        if isinstance(one, Problem):
            detail = f"input {index}: {one.detail}"
            headers = dict(one.headers or {})
            raise Problem(one.status, one.code, detail, headers=headers, param="input")
    outcomes = await gather.run(services, prepared, services.settings.max_wait_seconds)
    try:
        results = _results(outcomes)
    except Problem:
        await _cancel_rest(services, outcomes)
        raise
    body = embeddings_json(model, results, asked)
    return json_response(body, headers=services.submitter.rate_headers(principal))


async def _document(request: Request, services: Services) -> Any:
    content_type = media_type(request)
    if not is_json(content_type):
        detail = f"content type {content_type or '(none)'!r} is not taken; send application/json"
        raise Problem(415, "unsupported_content_type", detail)
    return parse_json(await read_body(request, services.settings.max_body_bytes))


def _read(document: Any) -> EmbeddingsRequest:
    if not isinstance(document, dict):
        detail = 'send an object such as {"model": ..., "input": ...}'
        raise Problem(422, "invalid_request", detail)
    if _is_tokens(document.get("input")):
        detail = (
            "input: arrays of token ids are not taken, as they belong to another model's "
            "tokenizer; send texts (LangChain: check_embedding_ctx_length=False)"
        )
        raise Problem(422, "tokens_not_taken", detail, param="input")
    try:
        return EmbeddingsRequest.model_validate(document, strict=True)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        field = str(errors[0]["loc"][0]) if errors[0]["loc"] else None
        problem = validation_problem(errors)
        raise Problem(422, problem.code, problem.detail, param=field) from exc


def _is_tokens(value: Any) -> bool:
    """Whether the input is a list of numbers, or of lists."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | list)


def _check_dimensions(services: Services, asked: EmbeddingsRequest) -> None:
    allowed = services.catalog[asked.model].dimensions
    if asked.dimensions is None or asked.dimensions in allowed:
        return
    lengths = " or ".join(map(str, allowed)) or "none"
    detail = (
        f"dimensions: {asked.model!r} does not take {asked.dimensions}, only {lengths}; vectors "
        "can only be cut where the model was trained for it and the catalog says so"
    )
    raise Problem(422, "unsupported_dimensions", detail, param="dimensions")


def _results(outcomes: Sequence[Outcome]) -> list[Any]:
    """Every input's result; raises the problem of the first that has none."""
    results = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Problem):
            raise outcome
        if not outcome.state.terminal:
            detail = "not done in time, and cancelled; send fewer inputs at a time, or use jobs"
            raise Problem(504, "timeout", detail, headers={"x-should-retry": "false"})
        if outcome.state is not JobState.SUCCEEDED:
            reason = outcome.reason or outcome.state.value
            status = 422 if reason in _INPUTS_FAULT else 500
            detail = f"input {index}: {outcome.error or reason}"
            raise Problem(status, reason, detail, param="input" if status == 422 else None)
        results.append(outcome.result)
    return results


async def _cancel_rest(services: Services, outcomes: Sequence[Outcome]) -> None:
    left = [one.id for one in outcomes if not isinstance(one, Problem) and not one.state.terminal]
    for first in range(0, len(left), _CANCELS_AT_ONCE):
        part = left[first : first + _CANCELS_AT_ONCE]
        await asyncio.gather(*map(services.store.cancel, part))

"""`/v1/embeddings` in OpenAI's format, for its stock client and software built on it.

All inputs or none: the format has no place for one input's error, so the first that fails is
the request's, and jobs that still run are canceled, since their results could not be fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.cache.directives import directives_of
from api.dependencies import ServicesDep
from api.http import bodies
from api.http.bodies import is_json
from api.http.json_response import JsonResponse
from api.http.problems import Problem, from_fleet_error
from api.http.request_errors import InvalidRequest, TokensNotTaken, UnsupportedDimensions
from api.inference import task_run
from api.inference.openai import EmbeddingsAnswer, EmbeddingsRequest, embeddings_json
from api.inference.task_run import Outcome, TaskCall
from api.routes.openai_errors import OpenAIRoute, openai_errors
from api.services import Services
from api.tenants.dependencies import SubmitDep
from common.errors import FleetError
from common.jobs.record import JobState

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)

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


@router.post(
    "/embeddings",
    response_model=EmbeddingsAnswer,
    openapi_extra=_BODY,
    responses=openai_errors(
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
    most = services.settings.max_body_bytes
    body = await bodies.read(request, most, is_json, instead="application/json")
    asked = _read(await body.json())
    model = task_run.model_for(services, "embed", asked.model)
    _check_dimensions(services, asked)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    directives = directives_of(body.asked.cache_control)
    call = TaskCall(model, {}, texts, principal, len(body.data), directives=directives)
    prepared = await task_run.prepare(services, call)
    for index, one in enumerate(prepared):
        if isinstance(one, FleetError):
            problem = from_fleet_error(one)
            where = _where(asked, index)
            detail = f"{where}: {problem.detail}"
            headers = dict(problem.headers or {})
            raise Problem(problem.status, problem.code, detail, headers=headers, param=where)
    seconds = services.settings.max_wait_seconds
    outcomes = await task_run.run_for(request, services, prepared, seconds)
    try:
        results = _results(asked, outcomes)
    except (Problem, FleetError):
        await _cancel_rest(services, outcomes)
        raise
    answer = embeddings_json(model, results, asked)
    return JsonResponse(answer, headers=services.submission.rate_headers(principal))


def _read(document: Any) -> EmbeddingsRequest:
    if not isinstance(document, dict):
        detail = 'send an object such as {"model": ..., "input": ...}'
        raise InvalidRequest(detail)
    _check_input(document.get("input", ""))
    try:
        return EmbeddingsRequest.model_validate(document, strict=True)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        field = str(errors[0]["loc"][0]) if errors[0]["loc"] else None
        raise InvalidRequest(str(InvalidRequest.of(errors)), param=field) from exc


def _check_input(value: Any) -> None:
    """Raise for what is neither a text nor a list of them, with the index of the first other.

    pydantic would tell of each kind that the field may have why this is not it.
    """
    texts = value if isinstance(value, list) else [value]
    for index, text in enumerate(texts):
        if isinstance(text, str):
            continue
        if index == 0 and texts is value and _is_tokens(value):
            detail = (
                "input: arrays of token ids are not taken, as they belong to another model's "
                "tokenizer; send texts (LangChain: check_embedding_ctx_length=False)"
            )
            raise TokensNotTaken(detail, param="input")
        where = f"input[{index}]" if texts is value else "input"
        kinds = "a text" if texts is value else "a text or a list of texts"
        raise InvalidRequest(f"{where}: send {kinds}, not {_kind_of(text)}", param=where)


def _is_tokens(texts: list[Any]) -> bool:
    """Whether these are numbers, or lists of them."""
    first = texts[0][:1] if isinstance(texts[0], list) else texts[:1]
    return bool(first) and isinstance(first[0], int) and not isinstance(first[0], bool)


def _kind_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return "a number"


def _check_dimensions(services: Services, asked: EmbeddingsRequest) -> None:
    allowed = services.catalog[asked.model].dimensions
    if asked.dimensions is None or asked.dimensions in allowed:
        return
    lengths = " or ".join(map(str, allowed)) or "none"
    detail = (
        f"dimensions: {asked.model!r} does not take {asked.dimensions}, only {lengths}; vectors "
        "can only be cut where the model was trained for it and the catalog says so"
    )
    raise UnsupportedDimensions(detail, param="dimensions")


def _where(asked: EmbeddingsRequest, index: int) -> str:
    """The name of one input, as errors tell it."""
    return "input" if isinstance(asked.input, str) else f"input[{index}]"


def _results(asked: EmbeddingsRequest, outcomes: Sequence[Outcome]) -> list[Any]:
    """Every input's result; raises the error of the first that has none."""
    results = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, FleetError):
            raise outcome
        if not outcome.state.terminal:
            detail = "not done in time, and cancelled; send fewer inputs at a time, or use jobs"
            raise Problem(504, "timeout", detail, headers={"x-should-retry": "false"})
        if outcome.state is not JobState.SUCCEEDED:
            reason = outcome.reason or outcome.state.value
            status = 422 if reason in _INPUTS_FAULT else 500
            where = _where(asked, index)
            detail = f"{where}: {outcome.error or reason}"
            raise Problem(status, reason, detail, param=where if status == 422 else None)
        results.append(outcome.value)
    return results


async def _cancel_rest(services: Services, outcomes: Sequence[Outcome]) -> None:
    left = [
        one.id for one in outcomes if not isinstance(one, FleetError) and not one.state.terminal
    ]
    await task_run.cancel_jobs(services, left)

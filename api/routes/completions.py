"""OpenAI's `/v1/completions` and `/v1/chat/completions`, for its stock client and its like.

All prompts or none, as with `/v1/embeddings`: the format has no place for one prompt's error.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from api.cache.directives import directives_of
from api.dependencies import ServicesDep
from api.http import bodies
from api.http.bodies import Body, aside, is_json
from api.http.json_response import JsonResponse
from api.http.openai_shape import openai_error
from api.http.problems import Problem, problem_for
from api.http.request_errors import InvalidRequest
from api.inference import task_run
from api.inference.completion_views import (
    ChatAnswer,
    CompletionAnswer,
    chat_body,
    completion_body,
)
from api.inference.following import News, Step
from api.inference.generation import raise_failure, wanted, wrong_result
from api.inference.task_run import Outcome, TaskCall
from api.jobs.events import HEARTBEAT
from api.jobs.progress import Piece
from api.routes.event_stream import EventStream, check_room
from api.routes.generation_run import stream, take
from api.routes.openai_errors import OpenAIRoute, openai_errors
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import SubmitDep
from common.errors import FleetError
from common.generation.inputs import TASK
from common.generation.openai_answers import Shape, choices_of
from common.generation.openai_answers import answer_of as openai_answer
from common.generation.openai_requests import CHAT, COMPLETIONS, Asked, WrongField, read_request
from common.jobs.record import JobRecord

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)

_LONGEST_SECONDS = 7 * 86_400.0
_DONE = b"data: [DONE]\n\n"
_OPTION = "params."
"""What the worker calls an option by, before its name."""
_ERRORS = openai_errors(
    s400="Not JSON, an option is wrong, or the prompt is too long (`context_length_exceeded`).",
    s401="No API key, or one that is not valid.",
    s403="The API key lacks the scope.",
    s404="No such model.",
    s410="The job was canceled, or its deadline passed.",
    s413="The body is too large.",
    s415="Not JSON by its content type.",
    s429="The lane is full.",
    s500="The model failed.",
    s503="The queue cannot be reached.",
    s504="Not done in time; it is canceled. A stream has no such limit.",
)
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer. With `stream`: chunks of it, and `[DONE]`.",
        "content": {"text/event-stream": {}},
    }
}


@router.post(
    "/completions",
    response_model=CompletionAnswer,
    openapi_extra=completion_body(),
    responses={**_STREAMED, **_ERRORS},
)
async def create_completion(
    request: Request, services: ServicesDep, principal: SubmitDep
) -> Response:
    """Text that goes on from a prompt, in OpenAI's shape, errors too."""
    return await _answer(COMPLETIONS, request, services, principal)


@router.post(
    "/chat/completions",
    response_model=ChatAnswer,
    openapi_extra=chat_body(),
    responses={**_STREAMED, **_ERRORS},
)
async def create_chat_completion(
    request: Request, services: ServicesDep, principal: SubmitDep
) -> Response:
    """The next message of a conversation, in OpenAI's shape, errors too."""
    return await _answer(CHAT, request, services, principal)


async def _answer(
    endpoint: str, request: Request, services: Services, principal: Principal
) -> Response:
    settings = services.settings
    body = await bodies.read(request, settings.max_body_bytes, is_json, "application/json")
    document = await body.json()
    if not isinstance(document, dict):
        raise InvalidRequest('send an object such as {"model": ...}')
    most, sent = settings.chat_max_tokens, len(body.data)
    try:
        asked = await aside(sent, lambda: read_request(endpoint, document, most))
    except WrongField as exc:
        raise InvalidRequest(str(exc), param=exc.param) from exc
    model = task_run.model_for(services, TASK, asked.model)
    if asked.options.stream:
        return await _streamed(endpoint, request, services, principal, body, asked)
    params = {name: one for name, one in asked.params.items() if name != "on_disconnect"}
    directives = directives_of(body.asked.cache_control)
    call = TaskCall(model, {"params": params}, asked.inputs, principal, sent, directives=directives)
    prepared = await task_run.prepare(services, call)
    for index, one in enumerate(prepared):
        if isinstance(one, FleetError):
            raise _named(one, endpoint, asked, index)
    cancels = asked.options.on_disconnect != "continue"
    outcomes = await task_run.run_for(
        request, services, prepared, settings.max_wait_seconds, cancels=cancels
    )
    try:
        answer = _whole(endpoint, asked, outcomes)
    except (Problem, FleetError):
        await task_run.cancel_jobs(services, _open_jobs(outcomes))
        raise
    return JsonResponse(answer, headers=services.submission.rate_headers(principal))


def _open_jobs(outcomes: Sequence[Outcome]) -> list[str]:
    records = [one for one in outcomes if isinstance(one, JobRecord)]
    return [one.id for one in records if not one.state.terminal]


def _whole(endpoint: str, asked: Asked, outcomes: Sequence[Outcome]) -> bytes:
    """The answer; raises the error of the first prompt that has none."""
    records = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, FleetError):
            raise outcome
        if not outcome.state.terminal:
            detail = "not done in time, and canceled; use `stream`, fewer tokens, or jobs"
            raise Problem(504, "timeout", detail, headers={"x-should-retry": "false"})
        try:
            raise_failure(outcome, **{"x-should-retry": "false"})
        except Problem as exc:
            raise _placed(exc, endpoint, asked, index) from exc
        records.append(outcome)
    try:
        return openai_answer(endpoint, asked.model, records)
    except (TypeError, KeyError, AttributeError) as exc:
        raise wrong_result(asked.model) from exc


def _named(error: FleetError, endpoint: str, asked: Asked, index: int) -> Problem:
    return _placed(problem_for(error), endpoint, asked, index)


def _placed(problem: Problem, endpoint: str, asked: Asked, index: int) -> Problem:
    """The problem with the name of what has it: an option that the engine lacks, or a prompt."""
    if problem.status not in (400, 422):
        return problem
    headers, said = dict(problem.headers or {}), str(problem.detail)
    if said.startswith(_OPTION):
        option = said.removeprefix(_OPTION).partition(":")[0]
        detail = f"`{option}`{said.removeprefix(_OPTION + option)}"
        return Problem(problem.status, problem.code, detail, headers=headers, param=option)
    field = "messages" if endpoint == CHAT else "prompt"
    where = field if len(asked.inputs) == 1 else f"{field}[{index}]"
    detail = f"{where}: {said}"
    return Problem(problem.status, problem.code, detail, headers=headers, param=where)


async def _streamed(
    endpoint: str,
    request: Request,
    services: Services,
    principal: Principal,
    body: Body,
    asked: Asked,
) -> Response:
    check_room(services, principal)
    one = wanted(asked.model, asked.inputs[0], asked.params, asked.options)
    taken = await take(services, one, body, principal)
    try:
        events = await stream(request, services, one, taken, principal, _LONGEST_SECONDS)
    except Problem as exc:
        raise _placed(exc, endpoint, asked, 0) from exc
    shape = Shape(endpoint, taken.job_id, asked.model, int(time.time()))
    headers = services.submission.rate_headers(principal)
    chunks = _chunks(shape, asked.include_usage, events)
    if not one.cancels:
        return EventStream(chunks, headers)
    return EventStream(chunks, headers, lambda: services.unread.cancel(taken.job_id))


async def _chunks(
    shape: Shape, usage: bool, events: AsyncGenerator[list[News], None]
) -> AsyncGenerator[bytes, None]:
    """The news as chunks of an answer, and `[DONE]`; an error in the place of what is missing."""
    begun: set[int] = set()
    ended: set[int] = set()
    async with aclosing(events):
        async for news in events:
            told: list[bytes] = []
            for one in news:
                if isinstance(one, Piece):
                    told += _piece(shape, usage, one, begun, ended)
                elif one.last:
                    yield b"".join(
                        _event(chunk) for chunk in [*told, *_end(shape, usage, one, ended)]
                    )
                    yield _DONE
                    return
            yield b"".join(map(_event, told)) or HEARTBEAT
    text = "the stream ended before its job, which goes on; ask again"
    yield _event(_error(Problem(503, "stream_ended", text)))


def _event(chunk: bytes) -> bytes:
    return b"data: %b\n\n" % chunk


def _piece(
    shape: Shape, usage: bool, piece: Piece, begun: set[int], ended: set[int]
) -> list[bytes]:
    choice, chunks = piece.choice, []
    if shape.chat and choice not in begun:
        begun.add(choice)
        chunks.append(shape.first_chunk(choice, usage))
    if piece.finish is not None:
        ended.add(choice)
    if piece.text or piece.finish is not None or piece.logprobs:
        chunks.append(shape.chunk(choice, piece.text, piece.finish, piece.logprobs, usage))
    return chunks


def _end(shape: Shape, usage: bool, step: Step, ended: set[int]) -> list[bytes]:
    """The last chunks; where there is no result, the error."""
    record = step.event.record
    try:
        raise_failure(record)
        result: Any = record.value
        try:
            chunks = [
                shape.chunk(choice, "", one["finish_reason"], None, usage)
                for choice, one in enumerate(choices_of(result))
                if choice not in ended
            ]
            return [*chunks, shape.usage_chunk(result)] if usage else chunks
        except (TypeError, KeyError, AttributeError) as exc:
            raise wrong_result(record.lane) from exc
    except (Problem, FleetError) as exc:
        return [_error(problem_for(exc))]


def _error(problem: Problem) -> bytes:
    status = 400 if problem.status == 422 else problem.status
    error = openai_error(status, problem.code, str(problem.detail), problem.extra)
    return orjson.dumps({"error": error})

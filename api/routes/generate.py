"""`/v1/generate` and `/v1/batch-generate`: text, whole or as it is made."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from api.cache.directives import CacheDirectives, directives_of
from api.dependencies import ServicesDep
from api.http import bodies
from api.http.bodies import aside, is_json
from api.http.idempotency_key import REPLAYED
from api.http.json_response import JsonResponse
from api.http.preferences import VARY, Preferences
from api.http.problems import Problem, from_fleet_error, responses
from api.http.request_errors import InvalidRequest, TooManyInputs
from api.inference import task_run
from api.inference.generation import Wanted, answer_of, wanted_of
from api.inference.generation_views import (
    BatchGenerateAnswer,
    GenerateAnswer,
    generate_schema,
    json_body,
)
from api.inference.task_run import Outcome
from api.jobs.links import job_path
from api.jobs.submission import Taken
from api.jobs.views import JobView
from api.routes.event_stream import EventStream, check_room, encoded
from api.routes.generation_run import settle, stream, take
from api.routes.job_lookup import show_job
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import SubmitDep
from common.errors import FleetError
from common.jobs.job import Job, new_job_id
from common.jobs.record import JobRecord, JobState

router = APIRouter(prefix="/v1", tags=["generation"])

_MOST_ID_CHARACTERS = 128
_REFUSALS = responses(
    s400="Not JSON.",
    s404="No such model.",
    s410="The job was canceled, or its deadline passed.",
    s413="The body is too large.",
    s415="Another content type than JSON.",
    s422="An option is wrong, the model is for another task, or the prompt is too long "
    "(`prompt-too-long`).",
    s429="The lane is full, or the tenant is at a limit.",
    s500="The model failed.",
    s503="The queue cannot be reached.",
)
_TEXT = {"text": "The river runs", "max_length": 20}


@router.post(
    "/generate",
    response_model=GenerateAnswer,
    openapi_extra=json_body(
        generate_schema(),
        {
            "text": {"summary": "A text", "value": _TEXT},
            "stream": {
                "summary": "Token by token, with a seed",
                "value": {**_TEXT, "temperature": 0.8, "seed": 7, "stream": True},
            },
        },
    ),
    responses={
        200: {
            "description": "The text. With `stream`: the events of the job, `token` among them.",
            "content": {"text/event-stream": {}},
        },
        202: {"model": JobView, "description": "Not done in time; the job goes on."},
        **_REFUSALS,
    },
)
async def generate(request: Request, services: ServicesDep, principal: SubmitDep) -> Response:
    """Text that goes on from a prompt: whole, or with `stream` as server-sent events.

    When the client hangs up the job is canceled, unless `on_disconnect` is `continue`.
    """
    settings = services.settings
    body = await bodies.read(request, settings.max_body_bytes, is_json, "application/json")
    document = await body.json()
    wanted = await aside(len(body.data), lambda: wanted_of(services, document))
    if wanted.options.stream:
        check_room(services, principal)
    taken = await take(services, wanted, body, principal)
    headers = {**services.submission.rate_headers(principal), "Location": job_path(taken.job_id)}
    if taken.replayed:
        headers[REPLAYED] = "true"
    if wanted.options.stream:
        return await _streamed(request, services, wanted, taken, principal, headers)
    preferences = Preferences.of(body.asked.prefer, settings.max_wait_seconds)
    seconds = preferences.wait_seconds
    if seconds is None:
        seconds = 0.0 if preferences.respond_async else settings.max_wait_seconds
    record = await settle(services, wanted, taken, principal, seconds)
    headers["Vary"] = VARY
    if applied := preferences.applied(settled=record.state.terminal):
        headers["Preference-Applied"] = applied
    if not record.state.terminal:
        return await show_job(services, record, 202, headers)
    return JsonResponse(orjson.dumps(answer_of(record)), 200, headers)


async def _streamed(
    request: Request,
    services: Services,
    wanted: Wanted,
    taken: Taken,
    principal: Principal,
    headers: dict[str, str],
) -> Response:
    seconds = services.settings.event_stream_seconds
    events = await stream(request, services, wanted, taken, principal, seconds)
    told = encoded(events, None)
    if not wanted.cancels:
        return EventStream(told, headers)
    return EventStream(told, headers, lambda: services.unread.cancel(taken.job_id))


@router.post(
    "/batch-generate",
    response_model=BatchGenerateAnswer,
    openapi_extra=json_body(
        {
            "type": "object",
            "required": ["requests"],
            "additionalProperties": False,
            "properties": {
                "requests": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "object"},
                    "description": "Bodies of `/v1/generate`, each with options of its own.",
                },
                "batch_id": {
                    "type": ["string", "null"],
                    "minLength": 1,
                    "maxLength": _MOST_ID_CHARACTERS,
                    "description": "Given back in the answer.",
                },
            },
        },
        {"two": {"summary": "Two texts", "value": {"requests": [_TEXT, {"text": "A calm lamp"}]}}},
    ),
    responses={
        202: {"model": BatchGenerateAnswer, "description": "Not all were done in time."},
        **_REFUSALS,
    },
)
async def batch_generate(request: Request, services: ServicesDep, principal: SubmitDep) -> Response:
    """Several generations at once, each with options of its own; one that fails is an `error`."""
    settings = services.settings
    body = await bodies.read(request, settings.max_body_bytes, is_json, "application/json")
    requests, batch_id = _read_batch(await body.json(), settings.max_inputs)
    directives = directives_of(body.asked.cache_control)
    size = len(body.data)
    prepared = await aside(
        size + 1024 * len(requests),
        lambda: [_prepare(services, one, principal, size, directives) for one in requests],
    )
    preferences = Preferences.of(body.asked.prefer, settings.max_wait_seconds)
    seconds = preferences.wait_seconds
    if seconds is None:
        seconds = 0.0 if preferences.respond_async else settings.max_wait_seconds
    outcomes: list[Outcome] = [one for one in prepared if isinstance(one, FleetError)]
    if len(outcomes) < len(prepared):
        outcomes = await task_run.run_for(request, services, prepared, seconds)
    results = [_item(one) for one in outcomes]
    answer = {
        "results": results,
        "batch_id": batch_id,
        "processed_count": sum("generated_text" in one for one in results),
    }
    open_jobs = any(isinstance(one, JobRecord) and not one.state.terminal for one in outcomes)
    headers = {"Vary": VARY, **services.submission.rate_headers(principal)}
    if applied := preferences.applied(settled=not open_jobs):
        headers["Preference-Applied"] = applied
    return JsonResponse(orjson.dumps(answer), 202 if open_jobs else 200, headers)


def _read_batch(document: Any, most: int) -> tuple[list[Any], str]:
    if not isinstance(document, dict) or not isinstance(document.get("requests"), list):
        raise InvalidRequest('send an object such as {"requests": [{"text": "Once"}]}')
    for name in document:
        if name not in ("requests", "batch_id"):
            raise InvalidRequest(
                f"`{name[:80]}`: there is no such field; options go into a request"
            )
    requests = document["requests"]
    if not requests:
        raise InvalidRequest("`requests`: send at least one")
    if len(requests) > most:
        raise TooManyInputs(f"`requests`: at most {most} at a time, not {len(requests)}")
    batch_id = document.get("batch_id")
    if batch_id is None:
        return requests, new_job_id()
    if not isinstance(batch_id, str) or not 0 < len(batch_id) <= _MOST_ID_CHARACTERS:
        raise InvalidRequest(f"`batch_id`: send a text of 1 to {_MOST_ID_CHARACTERS} characters")
    return requests, batch_id


def _prepare(
    services: Services,
    document: Any,
    principal: Principal,
    sent_bytes: int,
    directives: CacheDirectives,
) -> Job | FleetError:
    try:
        wanted = wanted_of(services, document)
        for name in ("stream", "on_disconnect"):
            if document.get(name):
                raise InvalidRequest(f"`{name}`: the results come together; leave it out")
        own = len(orjson.dumps(document))
        return services.submission.prepare(wanted.request, principal, sent_bytes, directives, own)
    except FleetError as exc:
        return exc


def _item(outcome: Outcome) -> dict[str, Any]:
    try:
        if isinstance(outcome, FleetError):
            raise from_fleet_error(outcome)
        if not outcome.state.terminal:
            return {"request_id": outcome.id, "state": outcome.state}
        return answer_of(outcome)
    except Problem as exc:
        return _failed(outcome, exc.code, str(exc.detail))
    except FleetError as exc:
        return _failed(outcome, exc.code, str(exc))


def _failed(outcome: Outcome, code: str, detail: str) -> dict[str, Any]:
    failed: dict[str, Any] = {"error": {"reason": code, "message": detail}}
    if isinstance(outcome, JobRecord):
        failed["request_id"] = outcome.id
        if outcome.state is not JobState.FAILED:
            failed["state"] = outcome.state
    return failed

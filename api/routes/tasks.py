"""Task-shaped routes: one request, one response, by the same jobs as all other routes.

They are for clients that need a result and not a job. Each waits for its inputs as long as a
request may; an input that is not done by then is a job to poll.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from api.cache.directives import directives_of
from api.dependencies import ServicesDep
from api.http import bodies
from api.http.json_response import JsonResponse
from api.http.preferences import VARY, Preferences
from api.http.problems import responses
from api.inference import task_run
from api.inference.bodies import task_of
from api.inference.task_run import TaskCall
from api.inference.views import (
    EXAMPLE_IMAGE,
    ClassifyAnswer,
    DetectAnswer,
    EmbedAnswer,
    answer_json,
    request_body,
)
from api.jobs.links import job_path
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import SubmitDep
from common.catalog import Task
from common.jobs.record import JobRecord
from common.settings import Settings

router = APIRouter(prefix="/v1", tags=["tasks"])

_FILES = (
    "A form takes one or more parts named `file`, and a file may be the body itself, with "
    "`?model=` and the like in the query."
)
_IMAGE_INPUT = f'Base64, a `data:` URL or {{"image": "<base64>"}}, or a list of these. {_FILES}'


def _declared(answer: type) -> dict[int | str, dict[str, Any]]:
    late = "Not all were done in time: `results` has the jobs to poll."
    return {
        202: {"model": answer, "description": late},
        **responses(
            s400="Not JSON, or not a form.",
            s404="No such model.",
            s413="The body is too large.",
            s415="Not an image that this fleet reads, or another content type.",
            s422="A field is missing or wrong, or the model is for another task.",
            s429="The lane is full.",
            s503="The queue cannot be reached.",
        ),
    }


@router.post(
    "/embed",
    response_model=EmbedAnswer,
    responses=_declared(EmbedAnswer),
    openapi_extra=request_body(
        f"One text, or a list of them. {_FILES}",
        {
            "one": {"summary": "Embed a sentence", "value": {"input": "The quick brown fox."}},
            "many": {
                "summary": "Embed several, with a model by its name",
                "value": {"model": "minilm", "input": ["A cat on a mat.", "A dog on a log."]},
            },
        },
    ),
)
async def embed(request: Request, services: ServicesDep, principal: SubmitDep) -> Response:
    """Vectors of texts, one item per input.

    An input that fails has an `error` and leaves the others alone; where none is accepted, the
    request itself is refused.
    """
    return await _answer(request, services, principal, "embed")


@router.post(
    "/classify",
    response_model=ClassifyAnswer,
    responses=_declared(ClassifyAnswer),
    openapi_extra=request_body(
        _IMAGE_INPUT,
        {
            "base64": {
                "summary": "The three likeliest labels of a picture",
                "value": {"input": EXAMPLE_IMAGE, "params": {"top_k": 3}},
            }
        },
    ),
)
async def classify(request: Request, services: ServicesDep, principal: SubmitDep) -> Response:
    """Labels of pictures, one item per input."""
    return await _answer(request, services, principal, "classify")


@router.post(
    "/detect",
    response_model=DetectAnswer,
    responses=_declared(DetectAnswer),
    openapi_extra=request_body(
        _IMAGE_INPUT,
        {
            "data_url": {
                "summary": "A picture as a data: URL",
                "value": {"input": f"data:image/png;base64,{EXAMPLE_IMAGE}"},
            },
            "several": {
                "summary": "Several pictures",
                "value": {"input": [{"image": EXAMPLE_IMAGE}, {"image": EXAMPLE_IMAGE}]},
            },
        },
    ),
)
async def detect(request: Request, services: ServicesDep, principal: SubmitDep) -> Response:
    """Boxes around what is found in pictures, one item per input."""
    return await _answer(request, services, principal, "detect")


async def _answer(
    request: Request, services: Services, principal: Principal, task: Task
) -> Response:
    settings = services.settings
    body = await bodies.read(request, settings.max_body_bytes)
    task_body = await task_of(body)
    model = task_run.model_for(services, task, task_body.fields.pop("model", None))
    call = TaskCall(
        model,
        task_body.fields,
        task_body.inputs,
        principal,
        task_body.sent_bytes,
        task_body.strict,
        directives_of(body.asked.cache_control),
    )
    prepared = await task_run.prepare(services, call)
    preferences = Preferences.of(body.asked.prefer, settings.max_wait_seconds)
    seconds = _seconds(preferences, settings)
    outcomes = await task_run.run_for(request, services, prepared, seconds)
    records = [one for one in outcomes if isinstance(one, JobRecord)]
    done = all(record.state.terminal for record in records)
    headers = {"Vary": VARY, **services.submission.rate_headers(principal)}
    if applied := preferences.applied(settled=done):
        headers["Preference-Applied"] = applied
    if not done and len(outcomes) == 1:
        headers["Location"] = job_path(records[0].id)
    return JsonResponse(answer_json(model, outcomes), 200 if done else 202, headers)


def _seconds(preferences: Preferences, settings: Settings) -> float:
    """How long to wait: as requested, not at all, or as long as a request may."""
    if preferences.wait_seconds is not None:
        return preferences.wait_seconds
    return 0.0 if preferences.respond_async else settings.max_wait_seconds

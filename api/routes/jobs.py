"""Submit a job, look at it, wait for it, cancel it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from api.auth import Principal, principal_of
from api.bodies import (
    RAW_BODIES,
    RAW_PARAMETERS,
    is_raw,
    job_request,
    multipart_job,
    parse_json,
    raw_job,
    read_body,
)
from api.context import waiting_by_choice
from api.deps import Services, ServicesDep
from api.preferences import wait_preference
from api.problems import Problem, responses
from api.schemas import JobRequest, JobView, queued_json, view_json
from common.job import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

JobId = Annotated[str, Path(max_length=128, pattern=r"^[\w.:-]+$", description="The job's id.")]

_REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": JobRequest.model_json_schema(),
                "examples": {
                    "sentence": {
                        "summary": "Embed a sentence",
                        "value": {"model": "minilm", "input": "The quick brown fox."},
                    },
                    "echo": {
                        "summary": "Try the queue without a model",
                        "value": {"model": "echo", "input": {"hello": "world"}},
                    },
                },
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["model", "file"],
                    "properties": {
                        "model": {"type": "string"},
                        "file": {"type": "string", "format": "binary"},
                        "params": {"type": "string", "description": "A JSON object."},
                        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
                        "deadline": {"type": "number"},
                        "start_within": {"type": "number"},
                    },
                }
            },
            **RAW_BODIES,
        },
    },
    "parameters": RAW_PARAMETERS,
}


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    openapi_extra=_REQUEST_BODY,
    responses={
        200: {"model": JobView, "description": "Done within the time given by `Prefer: wait=n`."},
        **responses(
            s400="Not JSON.",
            s404="No such model.",
            s413="The body is too large.",
            s415="Not an image that this fleet reads, or another content type.",
            s422="A field is missing or wrong.",
            s429="The lane is full.",
            s503="The queue cannot be reached.",
        ),
    },
)
async def submit_job(request: Request, services: ServicesDep) -> Response:
    """Queue one job. With `Prefer: wait=n`, answer 200 with the result when it is done in time."""
    return await take_job(request, services)


async def take_job(request: Request, services: Services) -> Response:
    """What `POST /v1/jobs` does; the hot route calls it too."""
    principal = await principal_of(request)
    job = await _prepare(request, services, principal)
    seconds = wait_preference(request.headers.get("prefer"), services.settings.max_wait_seconds)
    headers = {"Location": f"/v1/jobs/{job.id}"}
    publishing = services.submitter.publish(job)
    if seconds is None:
        return _json(queued_json(await publishing), 202, headers)
    headers["Preference-Applied"] = f"wait={seconds:g}"
    with waiting_by_choice():
        record = await services.waiter.wait(job.id, seconds, begin=publishing)
    if record is None:
        raise _unknown(job.id)
    return _json(view_json(record), 200 if record.state.terminal else 202, headers)


@router.get("/{job_id}", response_model=JobView, responses=responses(s404="No such job."))
async def get_job(
    job_id: JobId,
    services: ServicesDep,
    wait: Annotated[
        float, Query(ge=0, description="Seconds to wait for the job to be settled.")
    ] = 0.0,
) -> Response:
    """Look at a job; with `wait`, hold the answer until it is settled or the time is over."""
    seconds = min(wait, services.settings.max_wait_seconds)
    if seconds:
        with waiting_by_choice():
            record = await services.waiter.wait(job_id, seconds)
    else:
        record = await services.store.get(job_id)
    if record is None:
        raise _unknown(job_id)
    return _json(view_json(record))


@router.post("/{job_id}/cancel", response_model=JobView, responses=responses(s404="No such job."))
async def cancel_job(job_id: JobId, services: ServicesDep) -> Response:
    """Cancel a job: queued, it never runs; running, it never publishes. Repeatable."""
    if await services.store.cancel(job_id) is None:
        raise _unknown(job_id)
    record = await services.store.get(job_id)
    if record is None:
        raise _unknown(job_id)
    return _json(view_json(record))


async def _prepare(request: Request, services: Services, principal: Principal) -> Job:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limit = services.settings.max_body_bytes
    if content_type == "application/json" or content_type.endswith("+json"):
        body = await read_body(request, limit)
        return services.submitter.prepare(job_request(parse_json(body)), principal, len(body))
    if content_type == "multipart/form-data":
        job, payload = await multipart_job(request, limit)
    elif is_raw(content_type):
        job, payload = await raw_job(request, limit)
    else:
        raise Problem(
            415,
            "unsupported_content_type",
            f"content type {content_type or '(none)'!r} is not taken; send application/json, "
            "multipart/form-data, or a file's bytes as image/*, text/plain or "
            "application/octet-stream",
        )
    return services.submitter.prepare_file(job, payload, principal)


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def _unknown(job_id: str) -> Problem:
    return Problem(
        404, "unknown_job", f"there is no job {job_id!r}; results are kept for a limited time"
    )

"""Submits, shows, awaits and cancels jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import ServicesDep
from api.http.bodies import RAW_BODIES
from api.http.preferences import VARY, Preferences
from api.http.problems import Problem, responses
from api.jobs.request import MAX_DEADLINE_SECONDS, JobRequest
from api.jobs.request_body import RAW_PARAMETERS
from api.jobs.views import JobView
from api.routes.dead import retry_limits
from api.routes.fast_path import job_headers, take_job
from api.routes.job_lookup import JobId, find_job, show_job, unknown_job
from api.tenants.auth import Principal
from api.tenants.dependencies import ReadDep, SubmitDep
from common.jobs.record import JobRecord

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_NOT_KEPT = (
    "the job is {state} and its input is no longer stored, only that of dead jobs is; "
    "submit it again"
)

_SECONDS = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DEADLINE_SECONDS}
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
                    "additionalProperties": False,
                    "properties": {
                        "model": {"type": "string"},
                        "file": {"type": "string", "format": "binary"},
                        "params": {"type": "object", "description": "As JSON."},
                        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
                        "deadline": _SECONDS,
                        "start_within": _SECONDS,
                        "cache": {"type": "boolean"},
                        "labels": {"type": "object", "description": "As JSON."},
                    },
                }
            },
            **RAW_BODIES,
        },
    },
    "parameters": RAW_PARAMETERS,
}


_LINKS = {
    name: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
    for name, operation in {
        "look": "get_job",
        "result": "get_job_result",
        "events": "get_job_events",
        "cancel": "cancel_job",
        "retry": "retry_job",
    }.items()
}
"""The links of a response's job, for tools that read the OpenAPI document."""


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    openapi_extra=_REQUEST_BODY,
    responses={
        200: {
            "model": JobView,
            "description": "Done within the time given by `Prefer: wait=n`, or at once because "
            "the result was kept from an earlier job: then `cached` and the header `Age` say so.",
            "links": _LINKS,
        },
        202: {"links": _LINKS},
        **responses(
            s400="Not JSON.",
            s404="No such model.",
            s413="The body is too large.",
            s415="Not an image that this fleet reads, or another content type.",
            s422="A field is missing or wrong.",
            s429="Too much waits: the lane is full (`lane-full`), the job would start too late "
            "(`deadline-unreachable`), or the queue's memory is full (`queue-full`). `Retry-After` "
            "says when there should be room.",
            s503="Nothing would run it: the queue takes no work (`queue-unavailable`), the model "
            "fails (`model-unavailable`), or no worker serves it (`no-worker`). See `Retry-After`.",
        ),
    },
)
async def submit_job(request: Request, services: ServicesDep, _principal: SubmitDep) -> Response:
    """Queue one job. With `Prefer: wait=n`, answer 200 with the result when it is done in time."""
    return await take_job(request.scope, request.receive, services)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    response_model=JobView,
    responses=responses(s404="No such job."),
)
async def get_job(
    request: Request,
    job_id: JobId,
    services: ServicesDep,
    principal: ReadDep,
    wait: Annotated[
        float | None, Query(ge=0, description="Seconds to wait for the job to be settled.")
    ] = None,
) -> Response:
    """Look at a job; with `wait`, hold the answer until it is settled or the time is over.

    `Prefer: wait=n` means the same as `wait` in the query.
    """
    longest = services.settings.max_wait_seconds
    if wait is not None:
        return await show_job(
            services, await find_job(services, principal, job_id, min(wait, longest))
        )
    preferences = Preferences.of(request.headers.get("prefer"), longest)
    record = await find_job(services, principal, job_id, preferences.wait_seconds or 0.0)
    headers = {"Vary": VARY}
    if applied := preferences.applied(settled=True):
        headers["Preference-Applied"] = applied
    return await show_job(services, record, 200, headers)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    response_model=JobView,
    responses=responses(s404="No such job."),
)
async def cancel_job(job_id: JobId, services: ServicesDep, principal: SubmitDep) -> Response:
    """Cancel a job: queued, it never runs; running, it never publishes. Repeatable.

    One that was done before is shown as it is, its result only to a key that may read.
    """
    await find_job(services, principal, job_id)
    if await services.store.cancel(job_id) is None:
        raise unknown_job(job_id)
    record = await find_job(services, principal, job_id)
    return await show_job(services, _as_allowed(record, principal))


@router.post(
    "/{job_id}/retry",
    operation_id="retry_job",
    status_code=202,
    response_model=JobView,
    responses=responses(
        s404="No such job.", s409="It is not on the dead list: nothing to retry, or no input left."
    ),
)
async def retry_job(job_id: JobId, services: ServicesDep, principal: SubmitDep) -> Response:
    """Give a dead job a new life: back into its lane, same id, no attempts counted.

    Only a job on the dead list still has its input. Everything else that is settled has
    given it up, and is submitted again as a new job.
    """
    record = await find_job(services, principal, job_id)
    if not record.state.terminal:
        raise Problem(
            409, "job_not_settled", f"the job is {record.state}; only a dead one is retried"
        )
    if not await services.store.retry_dead(record.lane, [job_id], retry_limits(principal)):
        raise Problem(409, "input_not_kept", _NOT_KEPT.format(state=record.state))
    record = await find_job(services, principal, job_id)
    return await show_job(services, _as_allowed(record, principal), 202, job_headers(job_id))


def _as_allowed(record: JobRecord, principal: Principal) -> JobRecord:
    """The record, without its result for a principal that may submit and not read."""
    return record if principal.allows("read") else replace(record, result=None)

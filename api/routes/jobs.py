"""Submit a job, look at it, wait for it, cancel it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from redis.exceptions import RedisError

from api.cache.directives import cache_wish
from api.cache.result_cache import Hit
from api.dependencies import ServicesDep
from api.http.bodies import (
    RAW_BODIES,
    RAW_PARAMETERS,
    is_json,
    is_raw,
    job_request,
    media_type,
    multipart_job,
    parse_json,
    raw_job,
    read_body,
    type_not_taken,
)
from api.http.preferences import VARY, Asked, Preferences, asked_of
from api.http.problems import Problem, responses
from api.http.request_context import waiting_by_choice
from api.jobs.idempotency import REPLAYED, key_of, read_ahead
from api.jobs.links import job_path
from api.jobs.views import MAX_DEADLINE_SECONDS, JobRequest, JobView, hit_json, queued_json
from api.routes.job_lookup import JobId, find_job, json_response, show_job, unknown_job
from api.services import Services
from api.tenants.auth import Principal, ReadDep, SubmitDep, require
from common.jobs.job import Job
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
"""What can be done with the job of an answer, for tools that read the OpenAPI document."""


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
    return await take_job(request, services)


async def take_job(request: Request, services: Services) -> Response:
    """What `POST /v1/jobs` does; the hot route calls it too."""
    principal = await services.authenticator.identify(request.scope["headers"])
    require(principal, "submit")
    asked = asked_of(request.scope["headers"])
    if asked.idempotency_key is not None:
        response = await _take_once(request, services, principal, asked)
    else:
        job = await _prepare(request, services, principal, asked)
        response = await _publish(job, services, asked)
    if principal.tenant:
        response.headers.update(services.submitter.rate_headers(principal))
    return response


async def _take_once(
    request: Request, services: Services, principal: Principal, asked: Asked
) -> Response:
    """Take a job under its Idempotency-Key, or answer with the one taken before."""
    key = key_of(asked.idempotency_key or "")
    request, fingerprint = await read_ahead(request, services.settings.max_body_bytes)
    job = await _prepare(request, services, principal, asked)  # what is refused claims nothing
    if services.guard.refusal is not None:  # a claim would be refused as well, or wait for nothing
        if hit := await services.submitter.find(job):
            return _found(hit, services, asked)
        services.admission.require_queue(job)
    lane_ttl = services.catalog[job.model].result_ttl_seconds
    try:
        claim = await services.claims.claim(principal.tenant, key, fingerprint, job.id, lane_ttl)
    except RedisError:
        # Nothing can be claimed or enqueued now, but what is kept needs neither.
        if hit := await services.submitter.find(job):
            return _found(hit, services, asked)
        raise
    record = await services.store.get(claim.job_id) if claim.replayed else None
    if record is None:  # new; or on its way; or its taker died just before it could publish
        response = await _publish(replace(job, id=claim.job_id), services, asked)
    else:
        response = await _follow(record, services, asked)
    if claim.replayed:
        response.headers[REPLAYED] = "true"
    return response


async def _publish(job: Job, services: Services, asked: Asked) -> Response:
    if job.cache is not None and (hit := await services.submitter.find(job)):
        return _found(hit, services, asked)
    publishing = services.submitter.enqueue(job)
    if asked.prefer is None:
        record = await publishing
        notice = services.admission.notice(job.model)
        return json_response(queued_json(record, notice), 202, _headers(job.id))
    preferences = Preferences.of(asked.prefer, services.settings.max_wait_seconds)
    if preferences.wait_seconds is None:
        record, headers = await publishing, _headers(job.id, preferences)
        return json_response(
            queued_json(record, services.admission.notice(job.model)), 202, headers
        )
    with waiting_by_choice():
        waited = await services.waiter.wait(job.id, preferences.wait_seconds, begin=publishing)
    if waited is None:
        raise unknown_job(job.id)
    return await _taken(waited, services, preferences)


def _found(hit: Hit, services: Services, asked: Asked) -> Response:
    """The answer to a submit whose result was kept from an earlier job."""
    preferences = Preferences.of(asked.prefer, services.settings.max_wait_seconds)
    headers = _headers(hit.job_id, preferences, settled=True)
    headers["Age"] = str(hit.age_seconds)
    return json_response(hit_json(hit), 200, headers)


async def _follow(record: JobRecord, services: Services, asked: Asked) -> Response:
    """The answer to a repeated submit: of the same form as the first, of the job as it is now."""
    preferences = Preferences.of(asked.prefer, services.settings.max_wait_seconds)
    if preferences.wait_seconds and not record.state.terminal:
        with waiting_by_choice():
            record = await services.waiter.wait(record.id, preferences.wait_seconds) or record
    return await _taken(record, services, preferences)


async def _taken(record: JobRecord, services: Services, preferences: Preferences) -> Response:
    waited = preferences.wait_seconds is not None or record.cached
    settled = record.state.terminal and waited
    headers = _headers(record.id, preferences, settled=settled)
    return await show_job(services, record, 200 if settled else 202, headers)


def _headers(
    job_id: str, preferences: Preferences | None = None, *, settled: bool = False
) -> dict[str, str]:
    headers = {"Location": job_path(job_id), "Vary": VARY}
    if preferences and (applied := preferences.applied(settled=settled)):
        headers["Preference-Applied"] = applied
    return headers


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
    """Cancel a job: queued, it never runs; running, it never publishes. Repeatable."""
    await find_job(services, principal, job_id)
    if await services.store.cancel(job_id) is None:
        raise unknown_job(job_id)
    return await show_job(services, await find_job(services, principal, job_id))


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
    if not await services.store.retry_dead(record.lane, [job_id]):
        raise Problem(409, "input_not_kept", _NOT_KEPT.format(state=record.state))
    return await show_job(
        services, await find_job(services, principal, job_id), 202, _headers(job_id)
    )


async def _prepare(request: Request, services: Services, principal: Principal, asked: Asked) -> Job:
    content_type = media_type(request)
    limit = services.settings.max_body_bytes
    wish = cache_wish(asked.cache_control)
    if is_json(content_type):
        body = await read_body(request, limit)
        document = job_request(parse_json(body))
        return services.submitter.prepare(document, principal, len(body), wish)
    if content_type == "multipart/form-data":
        job, payload = await multipart_job(request, limit)
    elif is_raw(content_type):
        job, payload = await raw_job(request, limit)
    else:
        raise type_not_taken(content_type)
    return services.submitter.prepare_file(job, payload, principal, wish)

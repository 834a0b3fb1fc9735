"""A job's outcome: the bare result, and a stream of its events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Query, Response

from api.dependencies import ServicesDep
from api.http.json_response import JsonResponse
from api.http.problems import Problem, responses
from api.inference.following import follow
from api.jobs.events import ID_CHARACTERS, news
from api.jobs.links import job_path
from api.jobs.progress import Progress
from api.jobs.views import JobView
from api.routes.event_stream import EventStream, check_room, encoded
from api.routes.job_lookup import JobId, find_job, show_job
from api.tenants.auth import require
from api.tenants.dependencies import ReadDep
from common.jobs.record import JobRecord, JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_POLL_AGAIN_SECONDS = "1"
_ENDINGS = {
    JobState.FAILED: (422, "job_failed", "the job failed"),
    JobState.CANCELED: (410, "job_canceled", "the job was canceled"),
    JobState.EXPIRED: (410, "job_expired", "the job expired"),
}


@router.get(
    "/{job_id}/result",
    operation_id="get_job_result",
    responses={
        200: {"description": "The result, and nothing but the result.", "model": Any},
        202: {"description": "Not settled yet; the job as it stands.", "model": JobView},
        **responses(
            s404="No such job.",
            s410="The job was canceled or has expired: there will be no result.",
            s422="The job failed; `reason` says why.",
        ),
    },
)
async def get_result(
    job_id: JobId,
    services: ServicesDep,
    principal: ReadDep,
    wait: Annotated[
        float, Query(ge=0, description="Seconds to wait for the job to be settled.")
    ] = 0.0,
) -> Response:
    """The bare result of a job that succeeded; a problem with the reason of one that did not."""
    record = await find_job(
        services, principal, job_id, min(wait, services.settings.max_wait_seconds)
    )
    if record.state is JobState.SUCCEEDED:
        return JsonResponse(orjson.dumps(record.result))
    if record.state.terminal:
        raise _ending(record)
    headers = {"Location": job_path(job_id), "Retry-After": _POLL_AGAIN_SECONDS}
    return await show_job(services, record, 202, headers)


def _ending(record: JobRecord) -> Problem:
    status, code, text = _ENDINGS[record.state]
    detail = f"{text}: {record.error or record.reason or 'no reason was kept'}"
    return Problem(status, code, detail, reason=record.reason, job=job_path(record.id))


@router.get(
    "/{job_id}/events",
    operation_id="get_job_events",
    response_class=EventStream,
    responses={
        200: {
            "description": "Events `queued`, `running` and the terminal state; each carries the "
            "job as JSON. The stream ends with the terminal one. Between them, `token` events of a "
            "job that generates text.",
            "content": {"text/event-stream": {}},
        },
        204: {"description": "The last event was heard already; do not connect again."},
        **responses(s404="No such job.", s503="Too many streams are open here."),
    },
)
async def get_events(
    job_id: JobId,
    services: ServicesDep,
    principal: ReadDep,
    last_event_id: Annotated[
        str | None,
        Header(max_length=ID_CHARACTERS, description="The last event that was heard."),
    ] = None,
    on_disconnect: Annotated[
        Literal["continue", "cancel"],
        Query(description="Whether the job is canceled when this reader leaves before its end."),
    ] = "continue",
) -> Response:
    """Follow a job as server-sent events; one that generates text, token by token.

    A stream that broke is resumed with `Last-Event-ID`, on any replica.
    """
    if on_disconnect == "cancel":
        require(principal, "submit")
    record = await find_job(services, principal, job_id)
    if record.state.terminal and not news(record, Progress.read(last_event_id)[0]):
        return Response(status_code=204)
    check_room(services, principal)
    events = follow(
        services, principal, job_id, last_event_id, services.settings.event_stream_seconds
    )
    told = encoded(events, last_event_id)
    if on_disconnect == "cancel":
        return EventStream(told, on_left=lambda: services.unread.cancel(job_id))
    return EventStream(told)

"""A job's outcome: the bare result, and a stream of its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from redis.exceptions import RedisError
from starlette.types import Send

from api.dependencies import ServicesDep
from api.http.problems import Problem, responses
from api.http.request_context import waiting_by_choice
from api.http.request_errors import RequestError, TooManyWaiting
from api.jobs.events import HEARTBEAT, history, news
from api.jobs.links import job_path
from api.jobs.views import JobView, QueuePosition
from api.routes.job_lookup import JobId, find_job, json_response, show_job
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import ReadDep
from common.jobs.record import JobRecord, JobState
from common.redis.trouble import TROUBLE

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_POLL_AGAIN_SECONDS = "1"
_MOVES_SECONDS = 5.0
"""How often a stream checks whether its job has moved up."""
_ENDINGS = {
    JobState.FAILED: (422, "job_failed", "the job failed"),
    JobState.CANCELED: (410, "job_canceled", "the job was canceled"),
    JobState.EXPIRED: (410, "job_expired", "the job expired"),
}
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class _EventStream(StreamingResponse):
    """Server-sent events; the generator is closed, and its watch ended, with the response."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]  # ours is a generator
            await super().stream_response(send)


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
        return json_response(orjson.dumps(record.result))
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
    response_class=_EventStream,
    responses={
        200: {
            "description": "Events `queued`, `running` and the terminal state; each carries the "
            "job as JSON. The stream ends with the terminal one.",
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
        str | None, Header(max_length=64, description="The last event that was heard.")
    ] = None,
) -> Response:
    """Follow a job as server-sent events.

    A stream that broke is resumed with `Last-Event-ID`, on any replica.
    """
    record = await find_job(services, principal, job_id)
    if record.state.terminal and not news(record, last_event_id):
        return Response(status_code=204)
    shares = services.streams
    if not shares.take(principal.tenant):
        raise TooManyWaiting(shares.each)
    shares.give(principal.tenant)  # it is taken when the stream begins
    if services.watches.watching >= services.settings.max_event_streams:
        raise Problem(
            503,
            "too_many_streams",
            "this server holds as many event streams as it may; try again, or poll with ?wait=",
            headers={"Retry-After": _POLL_AGAIN_SECONDS},
        )
    events = _follow(services, principal, job_id, last_event_id)
    return _EventStream(events, headers=_STREAM_HEADERS)


async def _follow(
    services: Services, principal: Principal, job_id: str, last_id: str | None
) -> AsyncIterator[bytes]:
    """The events, as long as the stream has its place among those of the tenant."""
    services.streams.take(principal.tenant)
    try:
        async with aclosing(_events(services, principal, job_id, last_id)) as events:
            async for event in events:
                yield event
    except RequestError:
        return  # its key was revoked; who connects again is told
    finally:
        services.streams.give(principal.tenant)


async def _events(
    services: Services, principal: Principal, job_id: str, last_id: str | None
) -> AsyncGenerator[bytes, None]:
    """The events after `last_id`, as they occur; heartbeats in between.

    `queued` is sent again, with the same id, when the job has moved up.
    """
    settings = services.settings
    told_position: QueuePosition | None = None
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + settings.event_stream_seconds
    yield b"retry: 1000\n\n"
    async with services.watches.watch(job_id) as watch, _ending_without_redis():
        record = await services.store.get(job_id)
        while record is not None:
            position = await services.positions.of(record)
            moved = position and told_position and position.ahead != told_position.ahead
            fresh = news(record, last_id)
            for event in fresh or (history(record)[-1:] if moved else []):
                yield event.encode(position)
                last_id = event.id
            told_position = position
            if record.state.terminal or services.draining.is_set() or loop.time() >= ends_at:
                return
            with waiting_by_choice(streams=True):
                changed = await watch.next(min(settings.event_heartbeat_seconds, _MOVES_SECONDS))
            await services.authenticator.recheck(principal)
            if watch.gone:
                return
            if changed is None:
                yield HEARTBEAT
            record = changed or record


@asynccontextmanager
async def _ending_without_redis() -> AsyncIterator[None]:
    """End a stream that cannot continue; its client reconnects with `Last-Event-ID`."""
    try:
        yield
    except RedisError as exc:
        TROUBLE.note("streaming events", exc)

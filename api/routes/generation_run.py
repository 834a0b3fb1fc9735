"""Runs one generation for the client of a request: to its end, or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from fastapi import Request

from api.http.bodies import Body
from api.http.departures import ClientLeft, unless_client_leaves
from api.http.request_context import waiting_by_choice
from api.inference.following import News, Step, follow
from api.inference.generation import Wanted, raise_failure
from api.jobs.progress import Piece
from api.jobs.request_body import SentJob
from api.jobs.submission import Taken
from api.routes.job_lookup import unknown_job
from api.services import Services
from api.tenants.auth import Principal
from common.jobs.record import JobRecord


async def take(services: Services, wanted: Wanted, body: Body, principal: Principal) -> Taken:
    """Accept the job without waiting for it; under its Idempotency-Key, where there is one."""
    asked = replace(body.asked, prefer=None)
    sent = SentJob(wanted.request, None, len(body.data))
    return await services.submission.take(sent, replace(body, asked=asked), principal)


async def settle(
    services: Services, wanted: Wanted, taken: Taken, principal: Principal, seconds: float
) -> JobRecord:
    """The job's record once it is settled, or after these seconds; the client may leave before."""
    if taken.hit is not None:
        return taken.hit.record()
    try:
        with waiting_by_choice(principal.tenant):
            record = await services.waiter.wait(taken.job_id, seconds)
    except asyncio.CancelledError:
        if wanted.cancels:
            services.unread.cancel(taken.job_id)
        raise
    await services.authenticator.recheck(principal)
    if record is None:
        raise unknown_job(taken.job_id)
    return record


async def stream(
    request: Request,
    services: Services,
    wanted: Wanted,
    taken: Taken,
    principal: Principal,
    seconds: float,
) -> AsyncGenerator[list[News], None]:
    """The news of the job, once it says something: a job that fails before is the request's error.

    Where nothing happens for the time of a heartbeat, the stream begins all the same.
    """
    hit = taken.hit.record() if taken.hit is not None else None
    events = follow(services, principal, taken.job_id, None, seconds, hit)
    held: list[News] = []
    limit = asyncio.get_running_loop().time() + services.settings.event_heartbeat_seconds
    try:
        await unless_client_leaves(request, _begin(events, held, limit))
        last = held[-1] if held else None
        if isinstance(last, Step):
            raise_failure(last.event.record)
    except (ClientLeft, asyncio.CancelledError):
        if wanted.cancels:
            services.unread.cancel(taken.job_id)
        raise
    except BaseException:
        await events.aclose()
        raise
    return _all(held, events)


async def _begin(events: AsyncGenerator[list[News], None], held: list[News], limit: float) -> None:
    """Hold the news until there is text, an end, or it is this late."""
    async for news in events:
        held += news
        if any(isinstance(one, Piece) or one.last for one in news):
            return
        if asyncio.get_running_loop().time() >= limit:
            return


async def _all(
    held: list[News], events: AsyncGenerator[list[News], None]
) -> AsyncGenerator[list[News], None]:
    async with aclosing(events):
        if held:
            yield held
        async for news in events:
            yield news

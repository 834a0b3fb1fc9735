"""Finds the job that a path names, and shows it: shared by all routes of one job.

An unknown job, a deleted one and another tenant's get the same response, given here.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

from fastapi import Path, Response
from redis.exceptions import RedisError

from api.http.json_response import JsonResponse
from api.http.problems import Problem
from api.http.request_context import waiting_by_choice
from api.jobs.views import view_json
from api.services import Services
from api.tenants.auth import Principal
from common.jobs.record import JobRecord, JobState

JOB_ID_MAX_LENGTH = 512
"""Of the ids that Celery clients choose; any characters may be in them."""
JobId = Annotated[str, Path(max_length=JOB_ID_MAX_LENGTH, description="The job's id.")]


async def find_job(
    services: Services,
    principal: Principal,
    job_id: str,
    wait_seconds: float = 0.0,
) -> JobRecord:
    """The principal's job, settled or in its state after the wait; raises a 404 problem."""
    record = await services.store.get(job_id)
    if record is None or not principal.owns(
        record.tenant
    ):  # at once: a wait for another tenant's job would reveal that it exists
        raise unknown_job(job_id)
    if wait_seconds > 0 and not record.state.terminal:
        with waiting_by_choice(principal.tenant):
            record = await services.waiter.wait(job_id, wait_seconds) or record
        await services.authenticator.recheck(principal)
    return record


def unknown_job(job_id: str) -> Problem:
    """The 404 for an id that is unknown or expired, or another tenant's."""
    return Problem(
        404, "unknown_job", f"there is no job {job_id!r}; results are kept for a limited time"
    )


async def show_job(
    services: Services,
    record: JobRecord,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """The view of a job as a response, with its labels, and its queue position while it waits."""
    position, waits = None, record.state is JobState.QUEUED
    with contextlib.suppress(RedisError):
        if waits:
            position, record = await asyncio.gather(
                services.positions.of(record), services.listing.labeled(record)
            )
        else:  # a task for each would cost more than most answers need
            record = await services.listing.labeled(record)
    notice = services.admission.notice(record.lane) if waits else None
    return JsonResponse(view_json(record, position, notice), status, headers)

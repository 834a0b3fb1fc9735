"""Cancels or retries every job that a filter finds."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.dependencies import ServicesDep
from api.http.problems import responses
from api.http.request_errors import InvalidRequest
from api.http.strict_route import StrictRoute
from api.jobs.listing import JobFilter
from api.jobs.request import Labels, whole
from api.jobs.selection import Selected, Selection
from api.routes.dead import retry_limits
from api.routes.job_list import Moment
from api.services import Services
from api.tenants.dependencies import SubmitDep
from common.jobs.record import JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)

_MOST = 10_000


class Filter(BaseModel):
    """Which jobs: what all that is given fits."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    labels: Labels = Field(None, description="All of which a job has.", examples=[{"run": "42"}])
    model: str = Field("", max_length=200, description="Its model.")
    created_after: Moment | None = Field(None, description="Queued then or later (RFC 3339).")
    created_before: Moment | None = Field(None, description="Queued then or earlier (RFC 3339).")


class OpenFilter(Filter):
    """Which jobs to cancel."""

    state: Literal["queued", "running"] | None = Field(
        None, description="Its state now; left out, either."
    )


class _Many(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, strict=True, description="Count them and do nothing.")
    limit: Annotated[int, BeforeValidator(whole)] = Field(
        _MOST, strict=True, ge=1, le=_MOST, description="Most jobs in this call."
    )
    cursor: str | None = Field(
        None, max_length=64, description="`next_cursor` of the call before, with the same filter."
    )


class ManyToCancel(_Many):
    """The jobs to cancel."""

    filter: OpenFilter


class ManyToRetry(_Many):
    """The jobs to retry."""

    filter: Filter


class SelectedJobs(BaseModel):
    """What the call has done."""

    matched: int = Field(description="Jobs that the filter found.")
    jobs: int = Field(description="Those that were canceled or retried; 0 in a dry run.")
    next_cursor: str | None = Field(
        None, description="Ended after `limit` jobs or 10 s: go on from here."
    )


_RESPONSES = responses(
    s400="Not JSON.", s422="The filter is empty or wrong; the message says where."
)


@router.post("/cancel", response_model_exclude_none=True, responses=_RESPONSES)
async def cancel_jobs(
    many: ManyToCancel, services: ServicesDep, principal: SubmitDep
) -> SelectedJobs:
    """Cancel your jobs that wait or run and that the filter finds, newest first; repeatable.

    With `dry_run` they are counted. The list of jobs has the newest ones (`list_max_count`).
    """
    state = JobState(many.filter.state) if many.filter.state else None
    wanted = _job_filter(many.filter, "cancel", state)
    selection = _selection(services)
    act = None if many.dry_run else selection.cancel
    return _view(await selection.walk(principal.tenant, wanted, many.limit, many.cursor, act))


@router.post("/retry", response_model_exclude_none=True, responses=_RESPONSES)
async def retry_jobs(
    many: ManyToRetry, services: ServicesDep, principal: SubmitDep
) -> SelectedJobs:
    """Return your failed jobs that the filter finds to their lanes, with the same ids.

    Only those on a dead list have their input still; `jobs` counts them.
    """
    wanted = _job_filter(many.filter, "retry", JobState.FAILED)
    selection = _selection(services)
    act = None if many.dry_run else selection.retry(retry_limits(principal))
    return _view(await selection.walk(principal.tenant, wanted, many.limit, many.cursor, act))


def _job_filter(given: Filter, action: str, state: JobState | None) -> JobFilter:
    if not given.model_fields_set:
        raise InvalidRequest(
            f"`filter`: say which jobs to {action}, as by its labels; "
            'those since a moment are {"created_after": ...}'
        )
    return JobFilter(
        model=given.model,
        state=state,
        created_after=given.created_after,
        created_before=given.created_before,
        labels=given.labels,
        open_only=state is None,
    )


def _selection(services: Services) -> Selection:
    return Selection(services.listing, services.store)


def _view(done: Selected) -> SelectedJobs:
    return SelectedJobs(matched=done.matched, jobs=done.jobs, next_cursor=done.next_cursor)

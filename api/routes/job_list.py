"""Lists the tenant's jobs."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator

from api.dependencies import ServicesDep
from api.http.json_response import JsonResponse
from api.http.problems import responses
from api.http.request_context import current_root
from api.http.request_errors import InvalidRequest
from api.jobs.listing import JobFilter
from api.jobs.request import check_labels
from api.jobs.views import JobList, JobView, ListLinks
from api.tenants.dependencies import ReadDep
from common.jobs.record import JobState


def _no_number(value: object) -> object:
    """Refuse numbers: pydantic would accept seconds and milliseconds since 1970 as a date too."""
    if isinstance(value, int | float) or (
        isinstance(value, str) and _NUMBER.fullmatch(value.strip())
    ):
        raise ValueError("give the date and time as RFC 3339 does")
    return value


_NUMBER = re.compile(r"[-+.\d]*")
Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get(
    "",
    response_model=JobList,
    responses=responses(s422="A filter or the cursor makes no sense; the message says which."),
)
async def list_jobs(
    request: Request,
    services: ServicesDep,
    principal: ReadDep,
    model: Annotated[str, Query(max_length=200, description="Only jobs of this model.")] = "",
    state: Annotated[JobState | None, Query(description="Only jobs in this state now.")] = None,
    created_after: Annotated[
        Moment | None, Query(description="Only jobs queued then or later (RFC 3339).")
    ] = None,
    created_before: Annotated[
        Moment | None, Query(description="Only jobs queued then or earlier (RFC 3339).")
    ] = None,
    label: Annotated[
        list[str] | None,
        Query(description="Only jobs with this label, as `run=42`; of several, with all of them."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most jobs in one page.")] = 50,
    cursor: Annotated[
        str | None, Query(max_length=64, description="`next_cursor` of the page before.")
    ] = None,
) -> Response:
    """Your jobs, newest first, without their results.

    A page may be shorter than `limit`, even empty; as long as there is a `next_cursor`, there
    may be more. Jobs sent by plain Celery clients, or answered at once from the cache, are not
    listed.
    """
    wanted = JobFilter(model, state, created_after, created_before, _labels_of(label or []))
    page = await services.listing.page(principal.tenant, wanted, limit, cursor)
    following = None
    if page.next_cursor:
        asked = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        following = f"{current_root()}/v1/jobs?{urlencode([*asked, ('cursor', page.next_cursor)])}"
    listed = JobList(
        jobs=[JobView.of(record) for record in page.records],
        next_cursor=page.next_cursor,
        links=ListLinks(next=following),
    )
    return JsonResponse(listed.model_dump_json(exclude_none=True).encode())


def _labels_of(pairs: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or labels.setdefault(name, value) != value:
            raise InvalidRequest(f"`label`: {pair[:80]!r} is no label; write it as run=42")
    try:
        return check_labels(labels)
    except ValueError as exc:
        raise InvalidRequest(f"`label`: {exc}") from exc

"""Lists, retries and drops what settled jobs lead to and could not be sent."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints

from api.dependencies import ServicesDep
from api.http.strict_route import StrictRoute
from api.http.timestamps import moment
from api.jobs.outbox import OutboxEntry
from api.tenants.dependencies import AdminDep

MOST_ENTRIES = 10_000

router = APIRouter(prefix="/v1/outbox", tags=["outbox"], route_class=StrictRoute)

EntryId = Annotated[str, StringConstraints(pattern=r"^\d{1,15}-\d{1,15}$")]


class OutboxEntryView(BaseModel):
    """An entry that was given up: the job that is settled, and what it would have led to."""

    id: str
    job_id: str
    failed_at: datetime | None
    error: str
    leads_to: list[str] = Field(description="The tasks that it would have sent, by name.")

    @classmethod
    def of(cls, entry: OutboxEntry) -> OutboxEntryView:
        """The view of an entry."""
        return cls(
            id=entry.id,
            job_id=entry.job_id,
            failed_at=moment(entry.failed_ms),
            error=entry.error,
            leads_to=entry.leads_to,
        )


class OutboxView(BaseModel):
    """The outbox."""

    waiting: int = Field(description="Entries that workers are to continue.")
    failed: int = Field(description="Entries that were given up after eight tries.")
    entries: list[OutboxEntryView] = Field(description="The latter, newest first.")


class OutboxSelection(BaseModel):
    """Which entries; without ids, all that were given up."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[EntryId] | None, FailFast()] = Field(
        None, max_length=MOST_ENTRIES, description="Ids of entries; left out, all of them."
    )


class OutboxCount(BaseModel):
    """How many entries a call concerned."""

    entries: int


@router.get("")
async def list_outbox(
    services: ServicesDep,
    _principal: AdminDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> OutboxView:
    """What settled jobs lead to: how much waits, and what could not be sent, with the reason."""
    counts = await services.outbox.counts()
    failed = await services.outbox.failed(limit)
    entries = [OutboxEntryView.of(one) for one in failed]
    return OutboxView(waiting=counts.waiting, failed=counts.failed, entries=entries)


@router.post("/retry")
async def retry_outbox(
    selection: OutboxSelection, services: ServicesDep, _principal: AdminDep
) -> OutboxCount:
    """Have workers try entries again that were given up."""
    return OutboxCount(entries=await services.outbox.retry(selection.ids))


@router.post("/drop")
async def drop_outbox(
    selection: OutboxSelection, services: ServicesDep, _principal: AdminDep
) -> OutboxCount:
    """Drop entries that were given up: what their jobs lead to is never sent."""
    return OutboxCount(entries=await services.outbox.drop(selection.ids))

"""Lists, retries and deletes dead letters."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, FailFast, Field
from starlette.convertors import Convertor, register_url_convertor

from api.dependencies import ServicesDep
from api.http.problems import Problem
from api.http.strict_route import StrictRoute
from api.services import Services
from api.tenants.auth import Principal
from api.tenants.dependencies import ReadDep, SubmitDep
from common.jobs.enqueue import EnqueueTenant


class _DeadId(Convertor[str]):
    """Any word except the names of the actions on letters."""

    regex = "(?!(?:retry|purge)$)[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("dead_id", _DeadId())

MOST_IDS = 10_000

router = APIRouter(prefix="/v1/dead", tags=["dead letters"], route_class=StrictRoute)


class DeadSelection(BaseModel):
    """Which dead letters; without ids, all of the lane."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[str] | None, FailFast()] = Field(
        None, max_length=MOST_IDS, description="Job ids; left out, all of them."
    )


class DeadCount(BaseModel):
    """How many letters a call concerned."""

    jobs: int


@router.get("/{lane}")
async def list_dead(
    lane: str,
    services: ServicesDep,
    principal: ReadDep,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[dict[str, Any]]:
    """The lane's dead letters, newest first: id, reason, error, attempts, worker, when."""
    _known(services, lane)
    return await services.store.dead_letters(
        lane, offset=offset, limit=limit, owned=_owned_by(principal)
    )


@router.get("/{lane}/{job_id:dead_id}")
async def show_dead(
    lane: str, job_id: str, services: ServicesDep, principal: ReadDep
) -> dict[str, Any]:
    """One dead letter with its message as it was."""
    _known(services, lane)
    letter = await services.store.dead_letter(lane, job_id)
    if letter is None or not principal.owns(letter.get("tenant", "")):
        raise Problem(404, "unknown_job", f"lane {lane!r} has no dead letter {job_id!r}")
    return letter


@router.post("/{lane}/retry")
async def retry_dead(
    lane: str, selection: DeadSelection, services: ServicesDep, principal: SubmitDep
) -> DeadCount:
    """Put dead jobs back into their lane, with no attempts counted."""
    _known(services, lane)
    ids = await services.store.dead_ids(lane, selection.ids, _owned_by(principal))
    return DeadCount(jobs=await services.store.retry_dead(lane, ids, retry_limits(principal)))


@router.post("/{lane}/purge")
async def purge_dead(
    lane: str, selection: DeadSelection, services: ServicesDep, principal: SubmitDep
) -> DeadCount:
    """Drop dead letters for good."""
    _known(services, lane)
    ids = await services.store.dead_ids(lane, selection.ids, _owned_by(principal))
    return DeadCount(jobs=await services.store.purge_dead(lane, ids))


def _owned_by(principal: Principal) -> str | None:
    """The tenant whose letters it may see; None is all tenants."""
    return None if principal.allows("admin") else principal.tenant


def retry_limits(principal: Principal) -> EnqueueTenant | None:
    """The limits of its tenant, to which retried jobs are held as new ones; operators have none."""
    if not principal.tenant or principal.allows("admin"):
        return None
    limits = principal.limits
    return EnqueueTenant(
        principal.tenant, limits.jobs_per_second, limits.burst, limits.max_in_flight
    )


def _known(services: Services, lane: str) -> None:
    services.catalog[lane]

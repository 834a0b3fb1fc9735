"""What lanes hold and need; drops those that nobody serves, and closes breakers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import ServicesDep
from api.http.problems import Problem, from_fleet_error, responses
from api.http.strict_route import StrictRoute
from api.routes.operations_views import BreakerView, Dropped, LaneList, LaneView
from api.services import Services
from api.tenants.dependencies import AdminDep, MetricsDep
from common.jobs.system_lanes import SYSTEM_LANES
from common.redis.trouble import refusal_of

router = APIRouter(prefix="/v1/lanes", tags=["lanes"], route_class=StrictRoute)

_NOTHING_KNOWN = "what lanes hold is unknown without it"


@router.get("", responses=responses(s404="No such lane.", s503="The queue cannot be read."))
async def list_lanes(
    services: ServicesDep,
    _principal: MetricsDep,
    lane: Annotated[
        list[str] | None,
        Query(description="Only these lanes; given once for each.", max_length=1000),
    ] = None,
    system: Annotated[
        bool, Query(description="The fleet's own lanes too, such as that of webhooks.")
    ] = False,
) -> LaneList:
    """Per lane its demand, what waits, its age, pace, workers and circuit breaker; as of now.

    For scalers, `demand` has the demands alone, and `demand_total` their sum: `demand.minilm` and
    `demand_total` are paths that KEDA's metrics-api takes. Lanes that hold jobs and are served no
    more are among the lanes, as `abandoned`, unless lanes are named.
    """
    for name in lane or ():
        services.catalog[name]
    sampler = services.sampler
    await sampler.refresh()
    if not sampler.readable:  # an old figure would look like a true one
        raise from_fleet_error(refusal_of(sampler.trouble, _NOTHING_KNOWN))
    names = lane or list(services.catalog)
    views = {name: _view(services, name) for name in names}
    demand = {name: view.demand for name, view in views.items()}
    gone = {} if lane else services.abandoned.lanes
    abandoned = {
        name: LaneView.of(state, BreakerView.closed(), abandoned=True)
        for name, state in gone.items()
    }
    if system:
        own = await services.store.lanes(list(SYSTEM_LANES))
        views |= {name: LaneView.of(state, BreakerView.closed()) for name, state in own.items()}
    return LaneList(lanes=abandoned | views, demand=demand, demand_total=sum(demand.values()))


@router.post(
    "/{name}/drop",
    responses=responses(
        s404="No such lane.", s409="The lane is in the catalog, or a live worker serves it."
    ),
)
async def drop_lane(name: str, services: ServicesDep, _principal: AdminDep) -> Dropped:
    """Cancel every job of a lane whose model is served no more. To run them, serve it again."""
    if services.abandoned.is_served(name):
        detail = f"lane {name!r} is in the catalog, or a live worker serves it; cancel its jobs"
        raise Problem(409, "lane_served", detail)
    if not await services.abandoned.is_known(name):
        detail = (
            f"there is no lane {name[:80]!r}: it is not in the catalog, no worker ever served it, "
            "and it holds no jobs; GET /v1/lanes lists those that hold some"
        )
        raise Problem(404, "unknown_lane", detail)
    return Dropped(lane=name, jobs=await services.store.drop_lane(name))


@router.post("/{name}/breaker/reset", responses=responses(s404="No such lane."))
async def reset_breaker(name: str, services: ServicesDep, _principal: AdminDep) -> BreakerView:
    """Take the model's jobs again at once, whatever failed before."""
    services.catalog[name]
    return BreakerView.of(await services.admission.close_breaker(name))


def _view(services: Services, name: str) -> LaneView:
    breakers = services.breakers
    breaker = BreakerView.of(breakers.record(name), breakers.refused_tenants(name))
    return LaneView.of(services.sampler.lane(name), breaker)

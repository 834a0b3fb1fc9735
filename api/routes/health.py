"""Liveness, readiness and metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from api.dependencies import ServicesDep
from api.http.problems import Problem, from_fleet_error, responses
from api.observability.exposition import Exposition
from api.overload.breaker import State
from api.routes.operations_views import Ready
from api.routes.system import describe
from api.routes.system_view import SystemView
from api.tenants.auth import require
from api.tenants.dependencies import MetricsDep
from common.metrics.exposition import CONTENT_TYPE
from common.redis.trouble import refusal_of

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """One word."""

    status: Literal["ok"] = "ok"


@router.get("/health", responses=responses(s403="`full` needs the `metrics` scope."))
async def health(
    request: Request,
    services: ServicesDep,
    full: Annotated[
        str | None, Query(description="Answer as `/v1/system` does; needs the `metrics` scope.")
    ] = None,
) -> Alive | SystemView:
    """The process is alive; says nothing about Redis or workers unless `full` is asked for."""
    if full is None or full.lower() in ("0", "false", "no"):
        return Alive()
    require(await services.authenticator.identify(request.scope["headers"]), "metrics")
    return await describe(services)


@router.get("/ready", responses=responses(s503="Redis cannot be reached."))
async def ready(services: ServicesDep) -> Ready:
    """What this process can do, as it was at most a second ago.

    200 as long as it has something to offer: a queue that takes no work leaves the reads and the
    cached results, and lanes without a worker take jobs that wait for one.
    """
    sampler, refusal = services.sampler, services.guard.refusal
    if not sampler.readable:
        raise from_fleet_error(refusal_of(sampler.trouble, "nothing can be done without it"))
    records = services.breakers.records
    return Ready(
        status="degraded" if refusal else "ready",
        queue=refusal.code if refusal else "ok",
        workers=[report.worker for report in sampler.reports],
        lanes_without_worker=[name for name, one in sampler.lanes.items() if not one.workers],
        lanes_abandoned=list(services.abandoned.lanes),
        models_unavailable=[
            name for name, record in records.items() if record.state is not State.CLOSED
        ],
        warnings=[
            *services.server_watch.warnings,
            *(f"{one.worker}: {text}" for one in sampler.reports for text in one.warnings),
        ],
    )


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request, _principal: MetricsDep) -> Response:
    """Prometheus' text format, of all processes that share the port."""
    exposition: Exposition = request.app.state.metrics
    try:
        return Response(await exposition.text(), media_type=CONTENT_TYPE)
    except TimeoutError as exc:
        text = "the process that adds up the metrics does not answer; scrape again"
        raise Problem(503, "metrics_unavailable", text) from exc

"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.auth import MetricsDep
from api.deps import ServicesDep
from api.problems import Problem

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The process is alive; says nothing about Redis or workers."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "Redis cannot be reached."}})
async def ready(services: ServicesDep) -> dict[str, object]:
    """Redis answers, and these workers are alive."""
    try:
        workers = await services.store.workers()
    except Exception as exc:
        raise Problem(503, "queue_unavailable", "Redis cannot be reached") from exc
    return {"status": "ready", "workers": [report["worker"] for report in workers]}


@router.get("/metrics", include_in_schema=False)
async def metrics(_principal: MetricsDep) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

"""Which models this fleet serves, and the state of their lanes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.deps import ServicesDep
from api.schemas import ModelList, ModelView

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
async def list_models(services: ServicesDep) -> ModelList:
    """Every model of the catalog and which workers have it loaded."""
    workers = await services.store.workers()
    return ModelList(models=[ModelView.of(spec, workers) for spec in services.catalog.values()])


@router.get("/models/{name}")
async def get_model(name: str, services: ServicesDep) -> ModelView:
    """One model."""
    spec = services.catalog[name]
    return ModelView.of(spec, await services.store.workers())


@router.get("/lanes")
async def list_lanes(services: ServicesDep) -> dict[str, dict[str, int]]:
    """Per lane: jobs waiting, leased, delayed and dead, and its counters."""
    return await services.store.lanes(list(services.catalog))


@router.get("/workers")
async def list_workers(services: ServicesDep) -> list[dict[str, Any]]:
    """What each live worker says of itself: device, models, batches by size."""
    return await services.store.workers()

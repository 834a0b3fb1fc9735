"""The whole fleet in one answer, for people and for scripts that look at one number."""

from __future__ import annotations

import asyncio
import os
from functools import cache

from fastapi import APIRouter
from redis.exceptions import RedisError

from api.dependencies import ServicesDep
from api.routes.system_view import ApiFacts, ProcessView, RedisView, Status, SystemView, system_view
from api.services import Services
from api.tenants.dependencies import MetricsDep
from common.redis.server_facts import flavour_of
from common.runtime import (
    resident_set_mb,
    shared_optimizations,
    siblings,
    version_of,
    versions,
)

_TIMEOUT_SECONDS = 1.0
_PACKAGES = ("lanefleet", "fastapi", "starlette", "uvicorn", "pydantic", "redis")

router = APIRouter(prefix="/v1/system", tags=["operations"])


@router.get("")
async def get_system(services: ServicesDep, _principal: MetricsDep) -> SystemView:
    """Whether the fleet works, its memory, its versions and what makes it fast, its Redis.

    Also `GET /health?full`.
    """
    return await describe(services)


async def describe(services: Services) -> SystemView:
    """The view as of now; Redis is waited for no longer than a second."""
    sampler, refusal = services.sampler, services.guard.refusal
    redis, outbox = RedisView(reachable=False), None
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            outbox = await services.outbox.counts()
            info = await services.server_watch.ask()
            redis = RedisView.of(info, flavour_of(info), list(services.server_watch.warnings))
    except (RedisError, TimeoutError, OSError):
        pass  # it says so by itself
    status: Status = "degraded" if refusal else "ok"
    if not (sampler.readable and redis.reachable):
        status = "unavailable"
    return system_view(status, _facts(services), sampler.reports, redis, outbox)


def _facts(services: Services) -> ApiFacts:
    settings, own = services.settings, os.getpid()
    several = settings.api_workers > 1 or settings.max_requests
    processes = [
        ProcessView(name=f"api-{pid}", role="api", memory_mb=round(rss, 1))
        for pid in (siblings() if several else [own])
        if (rss := resident_set_mb("self" if pid == own else pid))
    ]
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return ApiFacts(processes=processes, optimizations=_optimizations(loop), versions=_versions())


@cache
def _optimizations(loop: str) -> dict[str, str | None]:
    uvloop = version_of("uvloop") if loop == "uvloop" else None
    return {"uvloop": uvloop, "httptools": version_of("httptools"), **shared_optimizations()}


@cache
def _versions() -> dict[str, str]:
    return versions(*_PACKAGES)

"""The courier's `/health`, `/ready` and `/metrics`, on the port of a worker's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector

from common.metrics.declaration import MetricFamily
from common.metrics.exposition import CONTENT_TYPE, process_families, text_of
from common.settings import Settings
from worker.courier.lane_service import LaneService


class CourierHealth:
    """Healthy while Redis answers within a lease; ready until it is told to end."""

    def __init__(
        self, services: Mapping[str, LaneService], settings: Settings, stopping: asyncio.Event
    ) -> None:
        self._services = services
        self._settings = settings
        self._stopping = stopping
        self._process = ProcessCollector(registry=CollectorRegistry())
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serve, where a port is set."""
        port = self._settings.worker_health_port
        if not port:
            return
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.host, port).start()

    async def stop(self) -> None:
        """Serve no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        now = time.monotonic()
        silence = max((now - one.redis_answered for one in self._services.values()), default=0.0)
        alive = silence < self._settings.lease_seconds
        report = {
            "status": "ok" if alive else "no answer from Redis",
            "redis_silence_seconds": round(silence, 3),
            "in_hand": {lane: one.in_hand for lane, one in self._services.items()},
        }
        return web.json_response(report, status=200 if alive else 503)

    async def _ready(self, _request: web.Request) -> web.Response:
        status = "stopping" if self._stopping.is_set() else "ready"
        return web.json_response({"status": status}, status=200 if status == "ready" else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = text_of(self._families())
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    def _families(self) -> Iterator[MetricFamily]:
        for service in self._services.values():
            families: Iterable[MetricFamily] = service.runner.families()
            yield from families
        yield from process_families(self._process)

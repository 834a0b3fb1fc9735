"""Build the FastAPI application: routes, errors, and what lives as long as the process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.deps import Services
from api.drain import DrainSampler
from api.publisher import Publisher
from api.routes import bulk, dead, health, jobs, models
from api.submit import Submitter
from common.catalog import load_catalog
from common.connect import connect_async
from common.settings import Settings
from common.store import JobStore, ResultWaiter

log = structlog.get_logger(__name__)

_DESCRIPTION = """
Runs ML models behind a queue. Submit a job, then poll, wait or ask for it to be waited for:

    curl -s localhost:8000/v1/jobs -H 'Content-Type: application/json' -H 'Prefer: wait=30' \\
      -d '{"model": "echo", "input": {"hello": "world"}}'
"""


class ProcessTime:
    """Adds `X-Process-Time`, in seconds, to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = f"{time.perf_counter() - began:.6f}".encode()
                message["headers"] = [*message["headers"], (b"x-process-time", seconds)]
            await send(message)

        await self._app(scope, receive, timed)


def create_app(settings: Settings, redis_url: str) -> FastAPI:
    """The application over this Redis. Raises ConfigurationError for a bad catalog."""
    catalog = load_catalog(settings.catalog).subset(settings.models)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client = connect_async(redis_url, settings)
        store = JobStore(client, settings.result_ttl_seconds)
        waiter = ResultWaiter(client, store)
        submitter = Submitter(settings, catalog, Publisher(client, settings.max_backlog))
        drain = DrainSampler(client, list(catalog), settings.max_backlog)
        app.state.services = Services(settings, catalog, store, waiter, submitter, drain)
        waiter.start()
        await drain.start()
        yield
        await drain.stop()
        await waiter.stop()
        await client.aclose()

    app = FastAPI(
        title="Lanefleet",
        version=version("lanefleet"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    problems.install(app)
    app.include_router(bulk.router)
    app.include_router(jobs.router)
    app.include_router(models.router)
    app.include_router(dead.router)
    app.include_router(health.router)
    app.add_middleware(ProcessTime)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app

"""Builds the FastAPI application: routes, errors, and objects with the process's lifetime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp

from api.http import problems
from api.http.cors import allow_origins
from api.http.middleware import RequestLayer
from api.http.request_counts import RequestCounts
from api.observability.collector import collector_of
from api.observability.exposition import Exposition
from api.openapi import docs_page as docs
from api.openapi import document as openapi
from api.openapi import examples
from api.routes import (
    batches,
    bulk,
    completions,
    dead,
    files,
    generate,
    health,
    job_list,
    job_selection,
    jobs,
    lanes,
    models,
    openai,
    outbox,
    system,
    tasks,
    webhooks,
)
from api.routes import job_result as results
from api.routes import job_results as collect
from api.routes.fast_path import FastPath
from api.services import running_services
from api.tracing.server_spans import API_SERVICE, ServerSpans
from common.catalog import load_catalog
from common.inputs.blobs import open_blobs
from common.settings import Settings
from common.tracing.spans import open_tracing

_DESCRIPTION = """
Runs ML models behind a queue. Submit a job, then poll, wait or ask for it to be waited for:

    curl -s localhost:8000/v1/jobs -H 'Content-Type: application/json' -H 'Prefer: wait=30' \\
      -d '{"model": "echo", "input": {"hello": "world"}}'
"""


_GUARDED = (
    *(bulk, collect, jobs, job_list, job_selection, results, tasks, openai, models, lanes, dead),
    *(outbox, files, batches, system, webhooks, generate, completions),
)
"""Routes that ask for a key."""


class Front:
    """The whole front: `app` is the application to serve; setting `draining` releases waiters."""

    def __init__(self, settings: Settings, redis_url: str, metrics: int | None = None) -> None:
        """metrics is the descriptor of the socket to a parent that adds up metrics."""
        self.draining = asyncio.Event()
        counts = RequestCounts()
        whole = create_app(settings, redis_url, self.draining, counts, metrics)
        fast_path = FastPath(whole)
        if settings.cors_origins:  # for the fast path as well
            allowing = allow_origins(fast_path, settings.cors_origins)
            self.app: ASGIApp = RequestLayer(allowing, settings, counts=counts)
        else:
            self.app = RequestLayer(whole, settings, fast_path, counts)
        if tracing := open_tracing(settings, API_SERVICE):
            self.app = ServerSpans(self.app, tracing, settings.root_path)


def create_app(
    settings: Settings,
    redis_url: str,
    draining: asyncio.Event | None = None,
    counts: RequestCounts | None = None,
    metrics: int | None = None,
) -> FastAPI:
    """The application over this Redis; once `draining` is set it releases waiting requests.

    Raises ConfigurationError for a bad catalog.
    """
    told, counted = draining or asyncio.Event(), counts or RequestCounts()
    catalog = load_catalog(settings.catalog).subset(settings.models)
    blobs = open_blobs(settings.blob_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_services(settings, redis_url, catalog, blobs, told) as services:
            exposition = Exposition(collector_of(services, counted), metrics)
            await exposition.start()
            app.state.services, app.state.metrics = services, exposition
            yield
            await exposition.stop()

    app = FastAPI(
        title="Lanefleet",
        version=version("lanefleet"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # Starlette's redirect names the host; ours is in http.paths
        generate_unique_id_function=openapi.operation_id,
    )
    problems.install(app)
    for one in _GUARDED:
        app.include_router(one.router, responses=problems.UNAUTHENTICATED)
    app.include_router(health.router)
    docs.install(app)
    openapi.install(app)
    examples.install(app)

    return app

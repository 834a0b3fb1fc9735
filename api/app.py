"""Build the FastAPI application: routes, errors, and what lives as long as the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp

from api import docs, examples, openapi, problems
from api.admission import Admission
from api.auth import Authenticator
from api.breaker import Policy
from api.breakers import Breakers
from api.cors import allow_origins
from api.deps import Services
from api.door import Door
from api.drain import DrainSampler
from api.fingerprints import Fingerprints
from api.hot import HotSubmit
from api.idempotency import Claims
from api.large_inputs import LargeInputs
from api.listing import Listing
from api.places import Places
from api.publisher import Publisher
from api.queue_guard import QueueGuard
from api.result_cache import ResultCache
from api.routes import (
    bulk,
    collect,
    dead,
    health,
    job_list,
    jobs,
    models,
    openai,
    results,
    tasks,
)
from api.submit import Submitter
from api.watching import Watching
from common.blobs import open_blobs
from common.catalog import load_catalog
from common.connect import cache_url_of, connect_async
from common.settings import Settings
from common.store import JobStore, ResultWaiter

_DESCRIPTION = """
Runs ML models behind a queue. Submit a job, then poll, wait or ask for it to be waited for:

    curl -s localhost:8000/v1/jobs -H 'Content-Type: application/json' -H 'Prefer: wait=30' \\
      -d '{"model": "echo", "input": {"hello": "world"}}'
"""


class Front:
    """The whole front: `app` is what a server serves, `draining` tells it to let go."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self.draining = asyncio.Event()
        whole = create_app(settings, redis_url, self.draining)
        hot = HotSubmit(whole)
        if settings.cors_origins:  # which jobs need as well
            self.app: ASGIApp = Door(allow_origins(hot, settings.cors_origins), settings)
        else:
            self.app = Door(whole, settings, hot)


def create_app(
    settings: Settings, redis_url: str, draining: asyncio.Event | None = None
) -> FastAPI:
    """The application over this Redis; once `draining` is set it lets go of whoever waits.

    Raises ConfigurationError for a bad catalog.
    """
    told = draining or asyncio.Event()
    catalog = load_catalog(settings.catalog).subset(settings.models)
    blobs = open_blobs(settings.blob_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client = connect_async(redis_url, settings)
        store = JobStore(client, settings.result_ttl_seconds, settings.tenant_window_jobs)
        waiter = ResultWaiter(client, store)
        fingerprints = Fingerprints(client, catalog)
        cache_url = cache_url_of(settings, redis_url)
        cache_client = connect_async(cache_url, settings, time_commands=False)
        hits_client = connect_async(redis_url, settings, time_commands=False)
        cache = ResultCache(
            cache_client,
            hits_client,
            settings.cache_timeout_seconds,
            lambda lane: catalog[lane].result_ttl_seconds or settings.result_ttl_seconds,
            lambda: drain.readable,
        )
        drain = DrainSampler(client, list(catalog), settings.max_backlog)
        breakers = Breakers(client, Policy.of(settings), catalog)
        guard = QueueGuard()
        admission = Admission(settings, drain, breakers, guard)
        large_inputs = LargeInputs(blobs, settings.redis_input_bytes)
        publisher = Publisher(
            client,
            settings.max_backlog,
            large_inputs,
            settings.tenant_window_jobs,
            guard,
            settings.list_max_count,
        )
        submitter = Submitter(settings, catalog, publisher, fingerprints, cache, admission)
        authenticator = Authenticator(client, settings, lambda: drain.readable)
        app.state.services = Services(
            settings,
            catalog,
            store,
            waiter,
            submitter,
            authenticator,
            drain,
            breakers,
            guard,
            admission,
            told,
            Claims(client, settings),
            Watching(store, waiter, settings.event_poll_seconds),
            Places(client, drain.per_second),
            Listing(client),
            fingerprints,
            cache,
        )
        waiter.start()
        await drain.start()
        await authenticator.start()
        await fingerprints.start()
        letting_go = asyncio.create_task(_let_go_when_told(told, waiter))
        yield
        letting_go.cancel()
        await fingerprints.stop()
        await drain.stop()
        await waiter.stop()
        await hits_client.aclose()
        await cache_client.aclose()
        await client.aclose()

    app = FastAPI(
        title="Lanefleet",
        version=version("lanefleet"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
    )
    problems.install(app)
    for one in (bulk, collect, jobs, job_list, results, tasks, openai, models, dead):
        app.include_router(one.router, responses=problems.UNAUTHENTICATED)
    app.include_router(health.router)
    docs.install(app)
    openapi.install(app)
    examples.install(app)

    return app


async def _let_go_when_told(told: asyncio.Event, waiter: ResultWaiter) -> None:
    await told.wait()
    waiter.drain()

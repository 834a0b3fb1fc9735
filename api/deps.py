"""What the routes share, made once per process and passed to them by FastAPI."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.admission import Admission
from api.auth import Authenticator
from api.breakers import Breakers
from api.drain import DrainSampler
from api.fingerprints import Fingerprints
from api.idempotency import Claims
from api.listing import Listing
from api.places import Places
from api.queue_guard import QueueGuard
from api.result_cache import ResultCache
from api.submit import Submitter
from api.watching import Watching
from common.catalog import Catalog
from common.settings import Settings
from common.store import JobStore, ResultWaiter


@dataclass(frozen=True, slots=True)
class Services:
    """The process's long-lived objects."""

    settings: Settings
    catalog: Catalog
    store: JobStore
    waiter: ResultWaiter
    submitter: Submitter
    authenticator: Authenticator
    drain: DrainSampler
    breakers: Breakers
    guard: QueueGuard
    admission: Admission
    draining: asyncio.Event
    """Set when the process is to end: whoever waits or streams is let go."""
    claims: Claims
    watching: Watching
    places: Places
    listing: Listing
    fingerprints: Fingerprints
    cache: ResultCache


async def _services(request: Request) -> Services:  # a plain def would go to the thread pool
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]

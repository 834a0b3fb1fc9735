"""The objects of one front process that all its requests share, and their construction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from api.background.server_watch import ServerWatch
from api.batches.batches import Batches, open_batches
from api.cache.result_cache import ResultCache
from api.cache.served_models import ServedModels
from api.http.shares import Shares
from api.jobs.abandoned_lanes import AbandonedLanes
from api.jobs.idempotency import Claims
from api.jobs.large_inputs import LargeInputs
from api.jobs.listing import Listing
from api.jobs.outbox import Outbox
from api.jobs.publisher import Publisher
from api.jobs.queue_position import QueuePositions
from api.jobs.said import SaidStreams
from api.jobs.store import JobStore
from api.jobs.submission import Submission
from api.jobs.submission_limits import SubmissionLimits
from api.jobs.unread_jobs import UnreadJobs
from api.jobs.unserved_lanes import CarePolicy, UnservedLanes
from api.jobs.waiter import ResultWaiter
from api.jobs.watch import JobWatches
from api.overload.admission import Admission, AdmissionPolicy
from api.overload.breaker import Policy
from api.overload.lane_sampler import LaneSampler
from api.overload.lane_state import ColdStarts
from api.overload.queue_guard import QueueGuard
from api.overload.shared_breakers import Breakers
from api.tenants.auth import Authenticator, KeyPolicy
from api.tracing.server_spans import API_SERVICE
from api.tracing.traced_publisher import TracedPublisher
from api.webhooks.registry import WebhookRegistry
from api.webhooks.targets import WebhookTargets
from common.catalog import Catalog
from common.inputs.blobs import Blobs
from common.redis.connect import cache_url_of, connect_async
from common.settings import Settings
from common.tracing.spans import open_tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The process's long-lived objects."""

    settings: Settings
    catalog: Catalog
    store: JobStore
    waiter: ResultWaiter
    submission: Submission
    authenticator: Authenticator
    sampler: LaneSampler
    server_watch: ServerWatch
    breakers: Breakers
    guard: QueueGuard
    admission: Admission
    draining: asyncio.Event
    """Set when the process is to end: waiting and streaming requests are released."""
    watches: JobWatches
    said: SaidStreams
    unread: UnreadJobs
    positions: QueuePositions
    listing: Listing
    outbox: Outbox
    served_models: ServedModels
    cache: ResultCache
    abandoned: AbandonedLanes
    unserved: UnservedLanes
    webhook_targets: WebhookTargets
    webhooks: WebhookRegistry
    streams: Shares
    """The event streams of each tenant."""
    batches: Batches | None
    """None where nothing says where files lie."""


@asynccontextmanager
async def running_services(
    settings: Settings,
    redis_url: str,
    catalog: Catalog,
    blobs: Blobs | None,
    draining: asyncio.Event,
) -> AsyncIterator[Services]:
    """The services over this Redis; their background tasks end with the context."""
    async with AsyncExitStack() as stack:
        client = connect_async(redis_url, settings)
        stack.push_async_callback(client.aclose)
        cold_starts = ColdStarts(catalog, settings.cold_start_seconds)
        sampler = LaneSampler(client, list(catalog), settings.max_backlog, cold_starts)
        cache = _result_cache(settings, redis_url, catalog, sampler, stack)
        services = _build(settings, redis_url, client, catalog, blobs, draining, sampler, cache)
        services.waiter.start()
        stack.push_async_callback(services.waiter.stop)
        stack.push_async_callback(services.said.stop)
        await sampler.start()
        stack.push_async_callback(sampler.stop)
        await services.server_watch.start()
        stack.push_async_callback(services.server_watch.stop)
        await services.authenticator.start()
        await services.served_models.start()
        stack.push_async_callback(services.served_models.stop)
        await services.webhook_targets.start()
        stack.push_async_callback(services.webhook_targets.stop)
        await services.abandoned.start()
        stack.push_async_callback(services.abandoned.stop)
        await services.unserved.start()
        stack.push_async_callback(services.unserved.stop)
        releasing = asyncio.create_task(_release_when_draining(draining, services.waiter))
        stack.callback(releasing.cancel)
        yield services


def _result_cache(
    settings: Settings,
    redis_url: str,
    catalog: Catalog,
    sampler: LaneSampler,
    stack: AsyncExitStack,
) -> ResultCache:
    """Uses connections of its own: a cache that hangs must not delay anything else."""
    kept = connect_async(cache_url_of(settings, redis_url), settings, time_commands=False)
    stack.push_async_callback(kept.aclose)
    hits = connect_async(redis_url, settings, time_commands=False)
    stack.push_async_callback(hits.aclose)
    return ResultCache(
        kept,
        hits,
        settings.cache_timeout_seconds,
        _result_ttl(settings, catalog),
        lambda: sampler.readable,
    )


def _result_ttl(settings: Settings, catalog: Catalog) -> Callable[[str], int]:
    """How long results of a lane are kept, seconds."""
    return lambda lane: catalog[lane].result_ttl_seconds or settings.result_ttl_seconds


def _build(
    settings: Settings,
    redis_url: str,
    client: redis.asyncio.Redis,
    catalog: Catalog,
    blobs: Blobs | None,
    draining: asyncio.Event,
    sampler: LaneSampler,
    cache: ResultCache,
) -> Services:
    store = JobStore(client, settings.result_ttl_seconds, settings.tenant_window_jobs)
    waiter = ResultWaiter(
        client, store, settings.redis_keepalive_seconds, settings.redis_outage_seconds
    )
    served_models, guard = ServedModels(client, catalog), QueueGuard()
    breakers = Breakers(client, Policy.of(settings), catalog)
    admission = Admission(AdmissionPolicy.of(settings), sampler, breakers, guard)
    claims = Claims(client, settings.idempotency_ttl_seconds, settings.result_ttl_seconds)
    publisher = _publisher(settings, client, blobs, guard)
    targets = WebhookTargets(client, settings)
    submission = Submission(
        *(SubmissionLimits.of(settings), catalog, publisher, served_models, cache),
        *(admission, claims, store, waiter, sampler.clock),
        targets,
    )
    return Services(
        settings=settings,
        catalog=catalog,
        store=store,
        waiter=waiter,
        submission=submission,
        authenticator=_authenticator(settings, redis_url, client, sampler),
        sampler=sampler,
        unserved=_unserved(settings, client, catalog, sampler),
        breakers=breakers,
        guard=guard,
        admission=admission,
        draining=draining,
        served_models=served_models,
        cache=cache,
        **_looking(settings, client, catalog, store, waiter, sampler),
        webhook_targets=targets,
        webhooks=WebhookRegistry(client, settings, targets),
        batches=open_batches(client, publisher, settings),
    )


def _looking(
    settings: Settings,
    client: redis.asyncio.Redis,
    catalog: Catalog,
    store: JobStore,
    waiter: ResultWaiter,
    sampler: LaneSampler,
) -> dict[str, Any]:
    """What looks at jobs, lanes and the server, and takes no work."""
    return {
        "server_watch": ServerWatch(client),
        "abandoned": AbandonedLanes(client, store, frozenset(catalog), lambda: sampler.reports),
        "watches": JobWatches(store, waiter, settings.event_poll_seconds),
        "said": SaidStreams(
            client, settings.stream_reader_entries, settings.redis_keepalive_seconds
        ),
        "unread": UnreadJobs(store),
        "positions": QueuePositions(client, sampler.per_second, sampler.clock),
        "listing": Listing(client),
        "outbox": Outbox(client),
        "streams": Shares(settings.max_event_streams, settings.tenant_share),
    }


def _unserved(
    settings: Settings, client: redis.asyncio.Redis, catalog: Catalog, sampler: LaneSampler
) -> UnservedLanes:
    policy = CarePolicy.of(settings)
    return UnservedLanes(client, sampler, _result_ttl(settings, catalog), policy)


def _authenticator(
    settings: Settings, redis_url: str, client: redis.asyncio.Redis, sampler: LaneSampler
) -> Authenticator:
    policy = KeyPolicy.of(settings, redis_url)
    return Authenticator(client, policy, lambda: sampler.readable, lambda: sampler.trouble)


def _publisher(
    settings: Settings, client: redis.asyncio.Redis, blobs: Blobs | None, guard: QueueGuard
) -> Publisher:
    words = (
        client,
        settings.max_backlog,
        LargeInputs(blobs, settings.redis_input_bytes),
        settings.tenant_window_jobs,
        guard,
        settings.list_max_count,
    )
    tracing = open_tracing(settings, API_SERVICE)
    return Publisher(*words) if tracing is None else TracedPublisher(tracing, *words)


async def _release_when_draining(draining: asyncio.Event, waiter: ResultWaiter) -> None:
    await draining.wait()
    waiter.drain()

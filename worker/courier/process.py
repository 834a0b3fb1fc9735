"""`python -m worker --role courier`: one asyncio process for the fleet's own work.

It delivers webhooks and runs batches: jobs of the system lanes, which no other process serves. It
loads no model and imports no torch. Several may run beside each other, as leases part the work.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

import redis.asyncio
import structlog

from common.jobs.system_lanes import BATCHES, WEBHOOKS
from common.redis.connect import connect_async
from common.redis.embedded_server import obtain_redis
from common.redis.format_version import check_format
from common.settings import Settings
from common.webhooks.deliveries import Deliveries
from common.webhooks.endpoints import Endpoints
from common.webhooks.vault import Vault
from worker.courier.batches.factory import make_batch_runner
from worker.courier.event_reader import EventReader
from worker.courier.health import CourierHealth
from worker.courier.jobs import Runner
from worker.courier.lane_service import LaneService
from worker.courier.leases import CourierLeases
from worker.courier.webhook_runner import WebhookRunner
from worker.courier.webhook_sender import WebhookSender

log = structlog.get_logger(__name__)

MakeRunner = Callable[["CourierContext"], Runner | None]
"""None where the settings leave it nothing to do."""


class CourierContext:
    """What a runner is built from."""

    def __init__(
        self, settings: Settings, client: redis.asyncio.Redis, redis_url: str, name: str
    ) -> None:
        self.settings = settings
        self.name = name
        """The courier's, unique."""
        self.client = client
        """Its pool is the courier's, with timeouts."""
        self.redis_url = redis_url
        self.services: dict[str, LaneService] = {}

    def wake_lane(self, lane: str) -> None:
        """Tell the courier that a job was put into this lane."""
        self.services[lane].work.set()


def runners() -> Mapping[str, MakeRunner]:
    """What serves each system lane."""
    return {WEBHOOKS: _webhooks, BATCHES: make_batch_runner}


def _webhooks(context: CourierContext) -> Runner:
    settings, client = context.settings, context.client
    deliveries = Deliveries(client, settings)
    endpoints = Endpoints(client, Vault(settings.webhook_key_bytes))
    wake = partial(context.wake_lane, WEBHOOKS)
    reader = EventReader(client, context.name, settings, deliveries, endpoints, wake)
    return WebhookRunner(settings, deliveries, endpoints, WebhookSender(settings), reader)


def run_courier(settings: Settings) -> int:
    """Serve the system lanes until SIGTERM; returns the exit status."""
    server = obtain_redis(settings)
    try:
        check_format(server.url, settings)
        asyncio.run(Courier(settings, server.url).run())
    finally:
        server.stop()
    return 0


class Courier:
    """The process' services."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self.services: dict[str, LaneService] = {}

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        name = f"courier-{os.getpid()}@{socket.gethostname()}"
        async with AsyncExitStack() as stack:
            client = connect_async(self._redis_url, self._settings)
            stack.push_async_callback(client.aclose)
            context = CourierContext(self._settings, client, self._redis_url, name)
            for lane, make in runners().items():
                if (runner := make(context)) is not None:
                    self.services[lane] = self._service(lane, runner, client, name)
            context.services = self.services
            health = CourierHealth(self.services, self._settings, stopping)
            await health.start()
            stack.push_async_callback(health.stop)
            log.info("courier_started", lanes=list(self.services))
            await asyncio.gather(
                stopping.wait(), *(one.run(stopping) for one in self.services.values())
            )
        log.info("courier_stopped")

    def _service(
        self, lane: str, runner: Runner, client: redis.asyncio.Redis, name: str
    ) -> LaneService:
        settings = self._settings
        leases = CourierLeases(client, lane, name, settings)
        return LaneService(
            leases, runner, settings.renew_interval_seconds, settings.reap_interval_seconds
        )

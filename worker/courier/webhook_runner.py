"""Runs the jobs of `~webhook`: each is one attempt at a delivery, by a schedule of its own."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import structlog

from common.metrics.courier import DELIVERIES, DELIVERY_SECONDS
from common.metrics.declaration import MetricFamily
from common.net.loopback import is_loopback
from common.settings import Settings
from common.webhooks.deliveries import DEAD, DELIVERED, PENDING, Attempt, Deliveries, Delivery
from common.webhooks.endpoints import DEFAULT, Endpoint, Endpoints
from common.webhooks.events import PING
from common.webhooks.vault import SecretUnreadable
from worker.courier.event_reader import EventReader
from worker.courier.jobs import CourierJob, Done, Later, Outcome, Runner
from worker.courier.tenant_shares import ShareFullError, TenantShares
from worker.courier.webhook_sender import TURN_SECONDS, HostBusyError, Sent, WebhookSender

log = structlog.get_logger(__name__)

_BELIEVED_SECONDS = 1.0
_BUSY_SECONDS = (1.0, 60.0)
_BUSY_PART = 0.25
_BUSY_PER_SECOND = 100
"""A delivery without a place is looked at again after a part of the time that all of its tenant's
take, and not more than so many of them a second: what is due comes before what is new in a lane.
"""
_GONE_TEXT = "its receiver answered 410: it is gone"


class WebhookRunner(Runner):
    """Delivers webhooks, and has the events of the outbox made into deliveries."""

    leave_seconds = 3.0

    def __init__(
        self,
        settings: Settings,
        deliveries: Deliveries,
        endpoints: Endpoints,
        sender: WebhookSender,
        reader: EventReader,
    ) -> None:
        self.concurrency = settings.webhook_concurrency
        self._settings = settings
        self._deliveries = deliveries
        self._endpoints = endpoints
        self._sender = sender
        self._reader = reader
        self._on_loopback = is_loopback(settings.host)
        self._shares = TenantShares(settings.webhook_concurrency, TURN_SECONDS)
        self._read: dict[bytes, Delivery] = {}
        self._judged: dict[bytes, Delivery] = {}
        self._targets: dict[tuple[str, str], tuple[float, Endpoint | None]] = {}
        self._outcomes: Counter[str] = Counter()
        self._seconds = 0.0

    async def start(self) -> None:
        """Open connections, and begin to read events."""
        await self._sender.start()
        await self._reader.start()

    async def stop(self) -> None:
        """The other way round."""
        await self._reader.stop()
        await self._sender.stop()

    async def prepare(self, jobs: Sequence[CourierJob]) -> None:
        """Read the deliveries of these jobs, and where they go."""
        found = await self._deliveries.read([job.id for job in jobs])
        wanted: set[tuple[str, str]] = set()
        for job, delivery in zip(jobs, found, strict=True):
            if delivery is not None:
                self._read[job.tag] = delivery
                wanted.add((delivery.tenant, delivery.endpoint or DEFAULT))
        now = time.monotonic()
        if len(self._targets) > 10_000:
            self._targets.clear()
        for tenant, name in wanted:
            if now - self._targets.get((tenant, name), (-1e9, None))[0] > _BELIEVED_SECONDS:
                target = await self._target(tenant, name)
                self._targets[tenant, name] = (now, target)

    async def _target(self, tenant: str, name: str) -> Endpoint | None:
        if name == DEFAULT:
            return await self._endpoints.default_of(tenant)
        return await self._endpoints.get(tenant, name)

    async def run(self, job: CourierJob) -> Outcome:
        """Try one delivery once."""
        delivery = self._read.pop(job.tag, None)
        if delivery is None:  # no longer kept
            return Done("gone")
        if delivery.state != PENDING:  # its courier died between writing that and its end
            return Done(delivery.state)
        tried = len(delivery.log)
        outcome = await self._attempt(delivery)
        if len(delivery.log) > tried:
            self._judged[job.tag] = delivery
        return outcome

    async def _attempt(self, delivery: Delivery) -> Outcome:
        first_pause = self._first_pause_ms(delivery)
        if first_pause > 0:
            return Later(first_pause)
        _, target = self._targets.get((delivery.tenant, delivery.endpoint or DEFAULT), (0.0, None))
        if target is None:
            return self._give_up(delivery, "not sent: its endpoint was deleted")
        if target.disabled and delivery.type != PING:
            return self._give_up(delivery, f"not sent: its endpoint is disabled: {target.disabled}")
        try:
            sent = await self._send(delivery, target)
        except (HostBusyError, ShareFullError):
            return Later(self._busy_ms(delivery.tenant))
        self._seconds += sent.attempt.ms / 1000
        if sent.gone and delivery.endpoint:
            await self._disable(delivery, target)
        return self._judge(delivery, sent)

    async def _send(self, delivery: Delivery, target: Endpoint) -> Sent:
        """One attempt. Whatever goes wrong with it is its outcome: a delivery that raised each time
        would be tried for ever.
        """
        now_ms = int(time.time() * 1000)
        try:
            secrets = self._endpoints.secrets_of(delivery.tenant, target, now_ms)
            return await self._sender.send(
                delivery.url or target.url,
                delivery.id,
                delivery.body,
                secrets,
                local=target.local and self._on_loopback,
                place=self._shares.place(delivery.tenant),
            )
        except (HostBusyError, ShareFullError):
            raise
        except SecretUnreadable as exc:
            return Sent(Attempt(now_ms, None, 0.0, "", str(exc)), False)
        except Exception:
            log.exception("webhook_not_sent", delivery=delivery.id)
            text = "not sent: a fault of this fleet's, which its log has"
            return Sent(Attempt(now_ms, None, 0.0, "", text), False)

    def _busy_ms(self, tenant: str) -> int:
        waiting, rate = self._reader.waiting_of(tenant), self._shares.rate(tenant)
        seconds = 0.0 if rate is None else waiting / max(rate, 1.0)
        least, most = _BUSY_SECONDS
        pause = min(max(seconds * _BUSY_PART, least), max(most, waiting / _BUSY_PER_SECOND))
        return int(pause * random.uniform(500, 1_500))  # noqa: S311

    async def _disable(self, delivery: Delivery, target: Endpoint) -> None:
        """Send nothing more to an endpoint that is gone, unless it leads elsewhere by now."""
        log.warning("webhook_endpoint_gone", endpoint=target.id)
        changed = await self._endpoints.change(
            delivery.tenant,
            target.id,
            lambda one: replace(one, disabled=_GONE_TEXT) if one.url == target.url else one,
        )
        self._targets[delivery.tenant, target.id] = (time.monotonic(), changed)

    def _first_pause_ms(self, delivery: Delivery) -> int:
        if delivery.log or delivery.tries:
            return 0
        first_ms = self._settings.webhook_schedule_seconds[0] * 1000
        # Made by another machine, whose clock may be ahead.
        return int(min(delivery.created_ms + first_ms - time.time() * 1000, first_ms))

    def _give_up(self, delivery: Delivery, why: str) -> Outcome:
        attempt = Attempt(int(time.time() * 1000), None, 0.0, "", why)
        delivery.log.append(attempt)
        delivery.state = DEAD
        self._outcomes["given_up"] += 1
        return Done(DEAD)

    def _judge(self, delivery: Delivery, sent: Sent) -> Outcome:
        """What follows from an attempt."""
        delivery.log.append(sent.attempt)
        delivery.tries += 1
        schedule = self._settings.webhook_schedule_seconds
        if sent.delivered:
            delivery.state = DELIVERED
            self._outcomes["delivered"] += 1
            return Done(DELIVERED)
        if sent.gone or delivery.tries >= len(schedule) or delivery.type == PING:
            delivery.state = DEAD
            self._outcomes["given_up"] += 1
            return Done(DEAD)
        self._outcomes["retried"] += 1
        jitter = self._settings.webhook_jitter
        pause = schedule[delivery.tries] * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311
        asked = min(sent.retry_after_seconds or 0.0, self._settings.webhook_retry_after_seconds)
        return Later(int(max(pause, asked) * 1000))

    async def note(self, ended: Sequence[tuple[CourierJob, Outcome]]) -> None:
        """Write the attempts down."""
        changed = [(job.tag, one) for job, _ in ended if (one := self._judged.get(job.tag))]
        if changed:
            await self._deliveries.note_attempts(changed)
        for job, _ in ended:
            self._judged.pop(job.tag, None)

    def families(self) -> Iterator[MetricFamily]:
        """Its metrics, for one scrape."""
        family = DELIVERIES.family()
        for outcome in ("delivered", "retried", "given_up"):
            family.add(self._outcomes[outcome], outcome)
        yield family
        seconds = DELIVERY_SECONDS.family()
        seconds.add_summary(sum(self._outcomes.values()), self._seconds)
        yield seconds
        yield from self._reader.families()

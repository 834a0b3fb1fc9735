"""One worker process: builds its parts bottom up, starts them and stops them.

| thread       | does                                                | in                          |
|--------------|-----------------------------------------------------|-----------------------------|
| notifier     | receives notices of new work and canceled jobs      | lanes/notifier.py           |
| reserver     | reserves jobs for lanes with room, and routes them  | pipeline/reserver.py        |
| fetcher      | reads inputs from URLs and the blob store           | inputs/fetcher.py           |
| decode (n)   | decode inputs into items                            | pipeline/decode_pool.py     |
| device       | executes the scheduler's decisions                  | pipeline/runner.py          |
| teller       | text and streams of generation                      | generation/teller.py        |
| loader       | loads one model                                     | residency/model_host.py     |
| finisher     | encodes and publishes, one script a batch           | pipeline/finisher.py        |
| cache-writer | writes results into the cache                       | pipeline/cache_writer.py    |
| caretakers   | renew, reap, report, sweep, reconcile, see aliases  | maintenance/                |
| watchdog     | looks at how long the models' verbs take            | maintenance/watchdog.py     |

They share `WorkerState`, behind one lock. Only Celery's step and the launcher use the
engine; its parts use the parts below them, or callables passed to them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from common.catalog import Catalog
from common.inputs.blobs import Blobs
from common.redis.connect import cache_url_of, connect, database_of
from common.redis.keys import LaneKeys
from common.redis.scripts import Scripts
from common.redis.trouble import TROUBLE
from common.runtime import resident_set_mb
from common.settings import Settings
from common.worker_report import WorkerReport
from worker.batching.turns import Turns
from worker.checking.gate import Gate
from worker.generation.assembly import build_device
from worker.guard.supervision import Supervision
from worker.inputs.fetcher import InputFetcher
from worker.jobs.leases import LaneLeases
from worker.jobs.next_steps import NextSteps
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane, lanes_of
from worker.lanes.notifier import Notifier
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.maintenance.accuracy_watch import AccuracyWatch
from worker.maintenance.alias_watch import AliasWatch
from worker.maintenance.caretaker import Caretaker
from worker.maintenance.caretakers import build_caretakers, leases_of
from worker.maintenance.guard import Guard
from worker.observability.health_server import health_server_of
from worker.observability.parked import ParkedJobs
from worker.observability.report import report_of, weights_digests
from worker.observability.view import Counters, EventCounts
from worker.pipeline.cache_writer import CacheWriter
from worker.pipeline.decode_pool import DecodePool
from worker.pipeline.finisher import Finisher, Listener, Published
from worker.pipeline.intake import Intake
from worker.pipeline.reserver import Reserver
from worker.pipeline.shadow_runner import offer_to_shadow
from worker.pipeline.starting import Starting
from worker.residency.loader import Loader
from worker.residency.loading import loader_for
from worker.residency.model_host import ModelHost
from worker.residency.residency import Residency, Resident, memory_in_use

log = structlog.get_logger(__name__)

_CACHE_GRACE_SECONDS = 1.0


class Engine:
    """All lanes of one worker process and the threads that serve them."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        redis_url: str,
        worker: str,
        device: str,
        *,
        is_revoked: Callable[[str], bool] = lambda _job_id: False,
        has_revoked_stamp: Callable[[Mapping[str, Any]], bool] = lambda _stamps: False,
        blobs: Blobs | None = None,
        listener: Listener = lambda _published: None,
        event_counts: EventCounts | None = None,
        name_children: Callable[[NextSteps], list[Any]] = lambda _steps: [],
        caretakers: Sequence[Caretaker] = (),
        supervision: Supervision | None = None,
    ) -> None:
        """listener is called with every published batch; event_counts are its counters;
        name_children is as for Intake; caretakers run besides the engine's own.
        """
        self.settings = settings
        self.worker = worker
        self.device = device
        self.started_at = time.time()
        self.on_the_bus = False
        """Whether Celery's remote control reaches this worker. Written by Celery's step."""
        self.event_counts = event_counts or EventCounts()
        self._reports = 0
        client = connect(redis_url, settings)
        self._scripts = Scripts(client)
        self._build_lanes(catalog, settings)
        self.guard = Guard(
            settings, catalog, supervision or Supervision(), lambda: self.finisher.finished
        )
        self.arrival = self.guard.arrival
        self._build_models(catalog, settings)
        leases = leases_of(settings, self.state, worker, client)
        self._build_output(leases, redis_url, blobs, listener)
        self._build_input(leases, client, redis_url, name_children)
        self._build_device(leases, is_revoked, has_revoked_stamp)
        self.missing = self.models.companions.missing
        self.parked = ParkedJobs(client, self.state.lanes)
        self._build_caretakers(catalog, redis_url, blobs, caretakers)
        self._health = health_server_of(self, settings)

    def _build_lanes(self, catalog: Catalog, settings: Settings) -> None:
        now = time.monotonic()
        self.redis_health = RedisHealth(now)
        self.device_time = DeviceTime(now)
        self.state = WorkerState(lanes_of(catalog, settings), settings.metrics_max_tenants)

    def _build_models(self, catalog: Catalog, settings: Settings) -> None:
        self.gate = Gate(settings, catalog.models, self.device)
        self.model_warnings = self.gate.warnings
        load = self.gate.guarded(loader_for(self.device, settings))
        memory_mb = memory_in_use(self.device)
        residency = Residency(catalog.models, settings.model_memory_mb, load, memory_mb)
        self.guard.take_out(residency)
        digests, hangs = self.gate.digests, settings.model_max_deaths
        self.models = ModelHost(
            self.state,
            residency,
            Loader(self.state, residency, digests, self.guard.calls, hangs),
            self.guard.calls,
            warm_full_batches=self.device != "cpu",
            turn_seconds=settings.turn_seconds,
            on_stuck=self.guard.departure.on_stuck,
            hold=self.guard.supervision.hold,
        )

    def _build_output(
        self,
        leases: Mapping[str, LaneLeases],
        redis_url: str,
        blobs: Blobs | None,
        listener: Listener,
    ) -> None:
        settings = self.settings
        cache = connect(cache_url_of(settings, redis_url), settings)
        self.cache_writer = CacheWriter(cache, self.models.residency.loaded_as)
        self.fetcher = InputFetcher(settings, blobs, settings.tenant_share)
        self.finisher = Finisher(
            self.state,
            leases,
            self.worker,
            self.redis_health,
            (self._on_published, self.cache_writer.offer, listener),
            self.guard.calls,
            self.models.residency.computed_by,
        )

    def _build_input(
        self,
        leases: Mapping[str, LaneLeases],
        client: Redis,
        redis_url: str,
        name_children: Callable[[NextSteps], list[Any]],
    ) -> None:
        settings, state = self.settings, self.state
        self.notifier = Notifier(
            lambda: connect(redis_url, settings),
            {name: LaneKeys.of(name).bands for name in state.lanes},
            on_work=state.lane_may_have_work,
            on_canceled=state.job_canceled,
            on_command=self.models.on_command,
            on_starved=lambda lane: state.tenant_starved(lane, time.monotonic()),
            keepalive_seconds=settings.redis_keepalive_seconds,
            database=database_of(client),
        )
        self.decode_pool = DecodePool(
            settings.decode_threads, self.guard.calls, self.device_time.busy_at
        )
        self.intake = Intake(
            state,
            client,
            self.finisher,
            self.decode_pool,
            self.fetcher,
            self.device_time,
            leases,
            name_children,
            max_unpacked_bytes=settings.unpacked_message_bytes,
        )
        self.reserver = Reserver(
            state,
            leases,
            self.notifier,
            self.intake,
            self.redis_health,
            starved_jobs=2 * settings.tenant_window_jobs,
        )

    def _build_device(
        self,
        leases: Mapping[str, LaneLeases],
        is_revoked: Callable[[str], bool],
        has_revoked_stamp: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        settings, state, finisher = self.settings, self.state, self.finisher
        self.turns = Turns(settings.batches_per_turn, settings.turn_seconds)
        revoked = (is_revoked, has_revoked_stamp)
        self.device_parts = build_device(
            *(settings, state, leases),
            Starting(state, leases, finisher, self.decode_pool, *revoked),
            *(self.turns, self.models, finisher),
            *(self.device_time, self.redis_health),
            self.guard.calls,
            on_device_lost=self.guard.departure.fail,
            on_stuck=self.guard.departure.on_stuck,
            retries=self.guard.retries,
        )

    def _build_caretakers(
        self, catalog: Catalog, redis_url: str, blobs: Blobs | None, others: Sequence[Caretaker]
    ) -> None:
        settings, health, parts = self.settings, self.redis_health, self.device_parts.watched
        digests = partial(weights_digests, self)
        self._alias_watch = AliasWatch(connect(redis_url, settings), self.models, catalog.aliases)
        self._caretakers = [
            *build_caretakers(
                settings, self.worker, self.state, health, redis_url, self.report, digests, blobs
            ),
            self._alias_watch,
            AccuracyWatch(self.gate, self.models),
            self.guard.watchdog(self.decode_pool, self.finisher, self.models, *parts),
            *others,
        ]

    def start(self) -> None:
        """Start every thread; models are loaded beside the device thread."""
        try:
            self._alias_watch.run_once()
        except RedisError as exc:
            TROUBLE.note("reading aliases", exc)  # the alias watch looks again
        self.models.begin()
        self.notifier.start()
        self.cache_writer.start()
        self.finisher.start()
        self.device_parts.start()
        for caretaker in self._caretakers:
            caretaker.start()
        self.decode_pool.start(self.intake.decoded)
        self.fetcher.start(self.intake.fetched)
        self.reserver.start()
        if self._health:
            self._health.start()

    def request_stop(self) -> None:
        """Stop reserving; the running batch ends normally. Safe in a signal handler's thread."""
        self.state.stopping.set()
        threading.Thread(target=self.state.wake, name="stop-notifier", daemon=True).start()

    def stop(self) -> None:
        """Finish the running batch, release unstarted leases, end every thread."""
        self.state.stop()
        grace = self.settings.shutdown_grace_seconds
        deadline = time.monotonic() + grace
        self.reserver.join(grace)
        self.device_parts.stop_steps(time.monotonic(), grace)
        self.guard.end_run(self.device_parts.runner, self.finisher, self.lanes, deadline)
        self.device_parts.stop_telling(deadline)
        self.finisher.stop(max(1.0, deadline - time.monotonic()))
        self.cache_writer.stop(_CACHE_GRACE_SECONDS)
        self.notifier.stop()
        for caretaker in self._caretakers:
            caretaker.stop()
        if self._health:
            self._health.stop()
        self.decode_pool.stop()
        self.fetcher.stop()
        self.reserver.release_unstarted()
        self.reserver.release_started()
        log.info("engine_stopped", in_hand=sum(len(one.in_hand) for one in self.lanes.values()))

    def cancel(self, job_id: str) -> str:
        """Cancel one job, whichever worker holds it; returns its state, '' when unknown."""
        ttl = self.settings.result_ttl_seconds
        return bytes(self._scripts.run("cancel", (), (job_id, ttl, "canceled"))).decode()

    def _on_published(self, published: Published) -> None:
        if published.finished and self.arrival.cold_start_seconds is None:
            self.arrival.published(time.monotonic(), published.finished[0].arrived)
        offer_to_shadow(self.state, published)
        self.fetcher.discard([one.job_id for one in published.finished if one.stored])

    # The read-only interface: EngineView.

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The lanes by name."""
        return self.state.lanes

    @property
    def residents(self) -> Mapping[str, Resident]:
        """Every model of the catalog, loaded or not."""
        return self.models.residency.models

    @property
    def loading(self) -> str | None:
        """The model that is being loaded or warmed up."""
        return self.models.loading

    @property
    def leaving(self) -> str:
        """Why the process is ending by itself; empty while it is not."""
        return self.guard.departure.reason

    def warnings(self) -> list[str]:
        """Sentences about calls of models that take long, and why the process leaves."""
        return [*self.guard.warnings(), *self.models.warnings(), *self.model_warnings().values()]

    rss_mb = staticmethod(resident_set_mb)
    """The resident memory of this process."""

    def counters(self) -> Counters:
        """The current counters."""
        finisher, cache = self.finisher, self.cache_writer
        return Counters(
            *(finisher.finished, finisher.fenced, cache.stored, cache.dropped),
            *(self.turns.switches, self.state.counts),
        )

    def report(self, now: float) -> WorkerReport:
        """The worker's report; called regularly, by one thread."""
        self.device_time.mark(now)
        self.guard.watch_arrival(now, self.models, self.lanes)
        self._reports += 1
        return report_of(self, self._reports, now)

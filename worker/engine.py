"""One worker process: builds its parts bottom up, starts them and stops them.

| thread       | does                                                | in                          |
|--------------|-----------------------------------------------------|-----------------------------|
| notifier     | receives notices of new work and canceled jobs      | lanes/notifier.py           |
| reserver     | reserves jobs for lanes with room, and routes them  | pipeline/reserver.py        |
| fetcher      | reads inputs from URLs and the blob store           | inputs/fetcher.py           |
| decode (n)   | decode inputs into items                            | pipeline/decode_pool.py     |
| device       | executes the scheduler's decisions                  | pipeline/runner.py          |
| loader       | loads one model                                     | residency/model_host.py     |
| finisher     | encodes and publishes, one script a batch           | pipeline/finisher.py        |
| cache-writer | writes results into the cache                       | pipeline/cache_writer.py    |
| caretakers   | renew, reap, report, sweep, reconcile, see aliases  | maintenance/                |

They share `WorkerState`, behind one lock. Only Celery's step and the launcher use the
engine; its parts use the parts below them, or callables passed to them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
from common.settings import Settings
from common.worker_report import WorkerReport
from worker.batching.turns import Turns
from worker.inputs.fetcher import InputFetcher
from worker.jobs.leases import LaneLeases, LeasePolicy
from worker.jobs.next_steps import NextSteps
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane, lanes_of
from worker.lanes.notifier import Notifier
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.maintenance.alias_watch import AliasWatch
from worker.maintenance.caretaker import Caretaker
from worker.maintenance.reaper import LeaseReaper
from worker.maintenance.reconciler import Reconciler
from worker.maintenance.renewer import LeaseRenewer
from worker.maintenance.reporter import Reporter
from worker.maintenance.sweeper import InputSweeper
from worker.observability.health_server import health_server_of
from worker.observability.parked import ParkedJobs
from worker.observability.report import report_of, weights_digests
from worker.observability.view import Counters, EventCounts
from worker.pipeline.cache_writer import CacheWriter
from worker.pipeline.decode_pool import DecodePool
from worker.pipeline.finisher import Finisher, Listener, Published
from worker.pipeline.intake import Intake
from worker.pipeline.reserver import Reserver
from worker.pipeline.runner import Runner
from worker.pipeline.scheduler import Scheduler
from worker.residency.loading import loader_for
from worker.residency.model_host import ModelHost
from worker.residency.residency import Residency, Resident, memory_in_use
from worker.residency.weights_digests import WeightsDigests

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
    ) -> None:
        """listener is called with every published batch; event_counts are its counters;
        name_children is as for Intake; caretakers run besides the engine's own.
        """
        self.settings = settings
        self.worker = worker
        self.device = device
        self.started_at = time.time()
        self.broken = False
        """Whether the process must exit with a failure."""
        self.on_the_bus = False
        """Whether Celery's remote control reaches this worker. Written by Celery's step."""
        self.event_counts = event_counts or EventCounts()
        self._reports = 0
        client = connect(redis_url, settings)
        self._scripts = Scripts(client)
        self._build_lanes(catalog, settings)
        self._build_models(catalog, settings)
        leases = self._leases(client)
        self._build_output(leases, redis_url, blobs, listener)
        self._build_input(leases, client, redis_url, name_children)
        self._build_device(leases, is_revoked, has_revoked_stamp)
        self.parked = ParkedJobs(client, self.state.lanes)
        self._alias_watch = AliasWatch(connect(redis_url, settings), self.models, catalog.aliases)
        self._caretakers = [*self._build_caretakers(redis_url, blobs), *caretakers]
        self._health = health_server_of(self, settings)

    # Bottom up.

    def _build_lanes(self, catalog: Catalog, settings: Settings) -> None:
        now = time.monotonic()
        self.redis_health = RedisHealth(now)
        self.device_time = DeviceTime(now)
        self.state = WorkerState(lanes_of(catalog, settings))

    def _build_models(self, catalog: Catalog, settings: Settings) -> None:
        residency = Residency(
            catalog.models,
            settings.model_memory_mb,
            loader_for(self.device, settings),
            memory_in_use(self.device),
        )
        self.models = ModelHost(
            self.state,
            residency,
            WeightsDigests(settings.state_dir / "digests.json"),
            warm_full_batches=self.device != "cpu",
            turn_seconds=settings.turn_seconds,
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
            (self._discard_inputs, self.cache_writer.offer, listener),
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
            settings.decode_threads, settings.decode_timeout_seconds, self.device_time.busy_at
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
        settings, state = self.settings, self.state
        self.turns = Turns(settings.batches_per_turn, settings.turn_seconds)
        self.runner = Runner(
            state,
            leases,
            Scheduler(state, self.turns, self.models),
            self.finisher,
            self.decode_pool,
            self.device_time,
            is_revoked=is_revoked,
            has_revoked_stamp=has_revoked_stamp,
            on_device_lost=self.fail,
            max_attempts=settings.max_attempts,
        )

    def _build_caretakers(self, redis_url: str, blobs: Blobs | None) -> list[Caretaker]:
        """Build the caretakers, each with connections of its own."""
        settings, state = self.settings, self.state

        def new_client() -> Redis:
            return connect(redis_url, settings)

        found: list[Caretaker] = [
            LeaseRenewer(
                state,
                self._leases(new_client()),
                self.redis_health,
                settings.renew_interval_seconds,
            ),
            LeaseReaper(state.lanes, self._leases(new_client()), settings.reap_interval_seconds),
            Reporter(
                new_client(),
                self.worker,
                self.redis_health,
                self.report,
                lambda: weights_digests(self),
            ),
            self._alias_watch,
            Reconciler(new_client(), list(state.lanes), self.worker, settings.result_ttl_seconds),
        ]
        if blobs is not None:
            sweep, orphan = settings.blob_sweep_seconds, settings.blob_orphan_seconds
            found.append(InputSweeper(new_client(), blobs, self.worker, sweep, orphan))
        return found

    def _leases(self, client: Redis) -> dict[str, LaneLeases]:
        policy = LeasePolicy.of(self.settings)
        return {lane: LaneLeases(client, lane, self.worker, policy) for lane in self.state.lanes}

    # Start and stop.

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
        self.runner.start()
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
        self.runner.join(max(0.1, deadline - time.monotonic()))
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
        in_hand = sum(len(lane.in_hand) for lane in self.lanes.values())
        log.info("engine_stopped", in_hand=in_hand)

    def fail(self) -> None:
        """End the process, which can no longer use its device, so that another can replace it."""
        self.broken = True
        os.kill(os.getpid(), signal.SIGTERM)

    def cancel(self, job_id: str) -> str:
        """Cancel one job, whichever worker holds it; returns its state, '' when unknown."""
        ttl = self.settings.result_ttl_seconds
        return bytes(self._scripts.run("cancel", (), (job_id, ttl, "canceled"))).decode()

    def _discard_inputs(self, published: Published) -> None:
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

    def counters(self) -> Counters:
        """The current counters."""
        return Counters(
            finished=self.finisher.finished,
            fenced=self.finisher.fenced,
            cache_stored=self.cache_writer.stored,
            cache_dropped=self.cache_writer.dropped,
            switches=self.turns.switches,
        )

    def report(self, now: float) -> WorkerReport:
        """The worker's report; called regularly, by one thread."""
        self.device_time.mark(now)
        self._reports += 1
        return report_of(self, self._reports, now)

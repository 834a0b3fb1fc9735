"""The threads that take jobs from lease to result.

1. feeder: reserves what the lanes want and hands it to the decoders (worker/pipeline/reserver.py)
2. fetcher: gets inputs that are neither in the message nor in Redis (worker/inputs/fetcher.py)
3. decoders: turn inputs into items (in the feeder itself when there are none)
4. runner: the one thread that owns the device (worker/pipeline/runner.py)
5. finisher: encodes and publishes, one script a batch (worker/pipeline/finisher.py)
6. renewer, reaper, sweeper: leases, and inputs that no job needs (worker/maintenance/)

They meet in `Engine`, behind one lock and condition. Nobody does network I/O
while holding it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

import structlog
from redis.exceptions import RedisError

from common.catalog import Catalog
from common.inputs.blobs import Blobs
from common.redis.connect import cache_url_of, connect
from common.redis.keys import LaneKeys
from common.redis.scripts import Scripts
from common.settings import Settings
from worker.batching.turns import Candidate, Turns
from worker.inputs.fetcher import Fetcher
from worker.jobs.leases import ReleasedJob
from worker.jobs.steps import Execution
from worker.lanes.lane import Lane
from worker.lanes.notifier import Doorbell
from worker.lanes.stages import DeviceTime, Idle
from worker.maintenance.caretaker import Reaper, Renewer, Sweeper
from worker.observability.health_server import HealthServer
from worker.pipeline.cache_writer import CacheWriter
from worker.pipeline.decode_pool import Decoders
from worker.pipeline.finisher import Finisher
from worker.pipeline.reserver import Feeder
from worker.pipeline.runner import Runner
from worker.residency.model_host import Errand, ModelHost
from worker.transfer import Later

log = structlog.get_logger(__name__)

_LOOK_AGAIN_SECONDS = 1.0
_LOOK_AT_DEVICE_SECONDS = 1e-3
"""How often a device that works by itself is asked whether it is done."""
_MAX_UNPUBLISHED = 4
"""Batches that may wait for the finisher; with more, memory would grow without a bound."""
_CACHE_GRACE_SECONDS = 1.0
_MAX_UNPUBLISHED_IN_HURRY = 2
"""The same while tenants with few jobs have some here: they would wait behind the others' results.
One that is published and one that waits keep the device as busy, less what evens out jitter."""
_HURRY_SECONDS = 1.0

Work = tuple[Lane, list[Execution]] | Errand


class Engine:
    """All lanes of one worker process and the threads that serve them."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        redis_url: str,
        worker: str,
        device: str,
        is_revoked: Callable[[str], bool] = lambda _job_id: False,
        blobs: Blobs | None = None,
    ) -> None:
        self.settings = settings
        self.worker = worker
        self.device = device
        self.is_revoked = is_revoked
        self.started_at = time.time()
        self.broken = False
        """Whether the process must end as failed."""
        self.on_the_bus = False
        """Whether Celery's remote control reaches this worker."""
        self.look_at_aliases = threading.Event()
        """Set when aliases may have moved; the reaper looks."""
        self.event_jobs_sent = 0
        self.event_jobs_sampled_out = 0
        self.last_round_trip = time.monotonic()
        self.device_time = DeviceTime(self.last_round_trip)
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        client = connect(redis_url, settings)
        self.client = client
        self.catalog = catalog
        self.lanes = {
            name: Lane(name, spec, client, worker, settings) for name, spec in catalog.items()
        }
        self.doorbell = Doorbell(
            lambda: connect(redis_url, settings),
            {name: LaneKeys.of(name).bands for name in self.lanes},
            self._on_ring,
            self._on_canceled,
            self._on_control,
            self._on_hurry,
        )
        self.cache = CacheWriter(connect(cache_url_of(settings, redis_url), settings))
        self.finisher = Finisher(self)
        self.turns = Turns(settings.batches_per_turn, settings.turn_seconds)
        self.runner = Runner(self)
        self.models = ModelHost(self)
        self.renewer = Renewer(self, connect(redis_url, settings))
        self.reaper = Reaper(self, connect(redis_url, settings))
        self.sweeper = Sweeper(self, connect(redis_url, settings), blobs) if blobs else None
        self.health = HealthServer(self) if settings.worker_health_port else None
        self.feeder = Feeder(self)
        self.decoders = Decoders(
            settings.decode_threads,
            settings.decode_timeout_seconds,
            self.feeder.on_decoded,
            self.device_time.busy_at,
        )
        self.fetcher = Fetcher(settings, blobs, self.feeder.on_fetched)
        self._hurry_until = 0.0
        self.on_batch: Callable[[str, Sequence[Execution]], None] = lambda _lane, _batch: None
        """Told of every published batch."""
        self._scripts = Scripts(client)

    def start(self) -> None:
        """Start every thread; models load on the device thread."""
        self.doorbell.start()
        self.cache.start()
        self.finisher.start()
        self.runner.start()
        self.renewer.start()
        self.reaper.start()
        if self.sweeper:
            self.sweeper.start()
        self.decoders.start()
        self.fetcher.start()
        self.feeder.start()
        if self.health:
            self.health.start()

    def request_stop(self) -> None:
        """Stop reserving and let the running batch end. Safe in a signal handler's thread."""
        self.stopping.set()
        threading.Thread(target=self._notify, name="stop-notifier", daemon=True).start()

    def stop(self) -> None:
        """Finish the running batch, hand unstarted leases back, end every thread."""
        self.stopping.set()
        self._notify()
        grace = self.settings.shutdown_grace_seconds
        deadline = time.monotonic() + grace
        self.feeder.join(grace)
        self.runner.join(max(0.1, deadline - time.monotonic()))
        self.finisher.stop(max(1.0, deadline - time.monotonic()))
        self.cache.stop(_CACHE_GRACE_SECONDS)
        self.doorbell.stop()
        self.renewer.stop()
        self.reaper.stop()
        if self.sweeper:
            self.sweeper.stop()
        if self.health:
            self.health.stop()
        self.decoders.stop()
        self.fetcher.stop()
        self.release_unstarted()
        log.info("engine_stopped", in_hand=sum(len(lane.in_hand) for lane in self.lanes.values()))

    def break_down(self) -> None:
        """The device is lost to this process: end it, so that another can take its place."""
        self.broken = True
        os.kill(os.getpid(), signal.SIGTERM)

    def cancel(self, job_id: str) -> str:
        """Cancel one job wherever it is; returns its state afterwards, '' when unknown."""
        ttl = self.settings.result_ttl_seconds
        return bytes(self._scripts.run("cancel", (), (job_id, ttl, "canceled"))).decode()

    def touch(self) -> None:
        """Note a successful round trip to Redis."""
        self.last_round_trip = time.monotonic()

    def take_work(self, on_device: Later | None = None) -> Work | None:
        """Block until the device has something to do; None when it is time to stop.

        Either a batch of a lane, or an errand: a model to load or unload. With a batch
        still on the device, what should follow it at once; None when it ends before that.
        """
        with self.changed:
            while not self.stopping.is_set():
                if errand := self.models.next_errand():
                    return errand
                now = time.monotonic()
                most = _MAX_UNPUBLISHED if now > self._hurry_until else _MAX_UNPUBLISHED_IN_HURRY
                behind = self.finisher.pending_batches >= most
                if not behind and (work := self._next_batch(now, on_device is None)):
                    return work
                if on_device is not None:
                    if _is_done(on_device):
                        return None
                    self.changed.wait(_LOOK_AT_DEVICE_SECONDS)
                elif behind:
                    self._idle("publishing", now, None)
                else:
                    self._idle(self._why_idle(), now, self._seconds_until_ready(now))
        return None

    def _idle(self, cause: Idle, now: float, seconds: float | None) -> None:
        self.device_time.wait(cause, now)
        self.changed.wait(seconds)
        self.device_time.resume(time.monotonic())

    def _why_idle(self) -> Idle:
        """Why there is no batch to run, when none was found."""
        lanes = self.lanes.values()
        if any(len(lane.batcher) for lane in lanes):
            return "company"
        if any(lane.waiting or lane.fetching for lane in lanes):
            return "decoding"
        if self.models.is_bringing_in():
            return "loading"
        if any(lane.asking or (lane.ready and lane.room()) for lane in lanes):
            return "reserving"
        return "no_work"

    def _next_batch(self, now: float, device_idle: bool) -> Work | None:
        """A batch of the lane whose turn it is; or the errand of opening that lane."""
        candidates = [one for lane in self.lanes.values() if (one := self._candidate(lane, now))]
        for name in self.turns.order(candidates, now):
            lane = self.lanes[name]
            if lane.suspects and not device_idle:
                return None  # it runs alone; with more work behind the batch that never comes
            if lane.handler is None:
                self.models.open(lane.spec.name)
                return self.models.next_errand()
            batch = lane.take_batch(now, device_idle)
            if batch:
                lane.waiting -= len(batch)
                self.runner.current.update([one.tag for one in batch])
                self.turns.took(name, now)
                self.changed.notify_all()
                return lane, batch
        return None

    def _candidate(self, lane: Lane, now: float) -> Candidate | None:
        oldest = lane.oldest()
        if oldest is not None:
            return Candidate(lane.name, now - oldest, lane.spec.weight, lane.is_full())
        if lane.wanted_since is None or not self.models.may_open(lane.spec.name, now):
            return None
        cost = self.models.load_seconds(lane.spec.name)
        return Candidate(lane.name, now - lane.wanted_since, lane.spec.weight, switch_seconds=cost)

    def settle(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """These left our hands: published, handed back or lost."""
        with self.changed:
            lane.forget(executions)
            self.changed.notify_all()

    def _seconds_until_ready(self, now: float) -> float | None:
        """How long the device may sleep until a batch is due whatever comes; None is for ever."""
        due = [
            ready_at
            for lane in self.lanes.values()
            if (ready_at := lane.batcher.ready_at()) is not None
        ]
        wait = max(0.0, min(due) - now) if due else None
        if any(lane.wanted_since is not None for lane in self.lanes.values()):
            return _LOOK_AGAIN_SECONDS if wait is None else min(wait, _LOOK_AGAIN_SECONDS)
        return wait

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _on_ring(self, name: str | None) -> None:
        with self.changed:
            for lane in (self.lanes[name],) if name else self.lanes.values():
                lane.ready, lane.armed = True, False
            self.changed.notify_all()

    def _on_canceled(self, name: str, tag: bytes) -> None:
        """Somebody cancelled a job in our hands; if it has not started it never will."""
        lane = self.lanes.get(name)
        with self.changed:
            execution = lane.in_hand.get(tag) if lane else None
            if execution is not None and execution.settled is None and not execution.started:
                execution.settled = "lost"

    def _on_hurry(self, name: str) -> None:
        """A tenant that had nothing in this lane has a job now; others fill our hands."""
        lane = self.lanes.get(name)
        if lane is None:
            return
        with self.changed:
            lane.hurried = lane.ready = True
            self._hurry_until = time.monotonic() + _HURRY_SECONDS
            self.changed.notify_all()

    def _on_control(self, command: bytes) -> None:
        """An operator asks something of the models: see ModelHost."""
        with self.changed:
            self.models.on_command(command)
            self.changed.notify_all()

    def release_unstarted(self) -> None:
        """Hand back, at once, what no batch has taken."""
        for lane in self.lanes.values():
            with self.changed:
                running = set(self.runner.current)
                unstarted = [
                    one
                    for one in lane.in_hand.values()
                    if one.settled is None and not one.started and one.tag not in running
                ]
                lane.drain()
                lane.waiting = 0
                lane.forget(unstarted)
            if not unstarted:
                continue
            try:
                count = lane.leases.release(
                    ReleasedJob(one.tag, one.job_id, not one.suspect) for one in unstarted
                )
                log.info("leases_released", lane=lane.name, jobs=count)
            except RedisError as exc:
                log.warning("release_failed", lane=lane.name, error=str(exc))


def _is_done(later: Later) -> bool:
    """Whether the device is done with it; a failure is, and `wait` raises it where it is judged."""
    try:
        return later.done()
    except Exception:  # noqa: BLE001 - whatever a driver raises
        return True

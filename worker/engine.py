"""The threads that take jobs from lease to result.

1. feeder: reserves what the lanes want and hands it to the decoders
2. decoders: turn inputs into items (in the feeder itself when there are none)
3. runner: the one thread that owns the device (worker/runner.py)
4. finisher: encodes and publishes, one script a batch (worker/finisher.py)
5. renewer and reaper: leases (worker/caretaker.py)

They meet in `Engine`, behind one lock and condition. Nobody does network I/O
while holding it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
from redis.exceptions import RedisError

from common.catalog import Catalog
from common.connect import connect
from common.keys import LaneKeys
from common.scripts import Scripts
from common.settings import Settings
from worker import pipeline
from worker.caretaker import Reaper, Renewer
from worker.doorbell import Doorbell
from worker.finisher import Finisher
from worker.health import HealthServer
from worker.lane import Lane
from worker.lease import Reservation
from worker.pipeline import Execution
from worker.runner import Runner

log = structlog.get_logger(__name__)

_LOOK_AGAIN_SECONDS = 1.0
_POLL_SECONDS = 0.02
_REDIS_PAUSE_SECONDS = 0.2
_MAX_UNPUBLISHED = 4
"""Batches that may wait for the finisher; with more, memory would grow without a bound."""
_INLINE_DECODE_SECONDS = 50e-6
"""Decoding that is cheaper than this per job is not worth handing to another thread."""


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
    ) -> None:
        self.settings = settings
        self.worker = worker
        self.device = device
        self.is_revoked = is_revoked
        self.started_at = time.time()
        self.on_the_bus = False
        """Whether Celery's remote control reaches this worker."""
        self.event_jobs_sent = 0
        self.event_jobs_sampled_out = 0
        self.last_round_trip = time.monotonic()
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        client = connect(redis_url, settings)
        self.client = client
        self.lanes = {name: Lane(spec, client, worker, settings) for name, spec in catalog.items()}
        self.doorbell = Doorbell(
            lambda: connect(redis_url, settings),
            {name: LaneKeys.of(name).bands for name in self.lanes},
            self._on_ring,
            self._on_canceled,
        )
        self.finisher = Finisher(self)
        self.runner = Runner(self)
        self.renewer = Renewer(self, connect(redis_url, settings))
        self.reaper = Reaper(self, connect(redis_url, settings))
        self.health = HealthServer(self) if settings.worker_health_port else None
        self._decoders = (
            ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
            if settings.decode_threads
            else None
        )
        self._feeder = threading.Thread(target=self._feed, name="feeder", daemon=True)
        self._turn = 0
        self._asked: Lane | None = None
        """The lane whose reservation is on its way; the feeder's own."""
        self.on_batch: Callable[[str, Sequence[Execution]], None] = lambda _lane, _batch: None
        """Told of every published batch."""
        self._scripts = Scripts(client)

    def start(self) -> None:
        """Start every thread; models load on the device thread."""
        self.doorbell.start()
        self.finisher.start()
        self.runner.start()
        self.renewer.start()
        self.reaper.start()
        self._feeder.start()
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
        self._feeder.join(grace)
        self.runner.join(max(0.1, deadline - time.monotonic()))
        self.finisher.stop(max(1.0, deadline - time.monotonic()))
        self.doorbell.stop()
        self.renewer.stop()
        self.reaper.stop()
        if self.health:
            self.health.stop()
        if self._decoders:
            self._decoders.shutdown(wait=False, cancel_futures=True)
        self._release_unstarted()
        log.info("engine_stopped", in_hand=sum(len(lane.in_hand) for lane in self.lanes.values()))

    def cancel(self, job_id: str) -> str:
        """Cancel one job wherever it is; returns its state afterwards, '' when unknown."""
        ttl = self.settings.result_ttl_seconds
        return bytes(self._scripts.run("cancel", (), (job_id, ttl, "canceled"))).decode()

    def touch(self) -> None:
        """Note a successful round trip to Redis."""
        self.last_round_trip = time.monotonic()

    def take_batch(self) -> tuple[Lane, list[Execution]] | None:
        """Block until a batch should run; None when it is time to stop."""
        with self.changed:
            while not self.stopping.is_set():
                if self.finisher.pending >= _MAX_UNPUBLISHED:
                    self.changed.wait()
                    continue
                now = time.monotonic()
                for lane in self._lanes_by_age(now):
                    batch = lane.take_batch(now)
                    if batch:
                        lane.waiting -= len(batch)
                        self.runner.current = {one.tag for one in batch}
                        self.changed.notify_all()
                        return lane, batch
                self.changed.wait(self._seconds_until_ready(now))
        return None

    def settle(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """These left our hands: published, handed back or lost."""
        with self.changed:
            lane.forget(executions)
            self.changed.notify_all()

    def _lanes_by_age(self, now: float) -> list[Lane]:
        """Lanes with work; first the one whose oldest job has waited longest, by weight."""
        ages = [
            ((now - oldest) * lane.spec.weight, lane)
            for lane in self.lanes.values()
            if (oldest := lane.oldest()) is not None
        ]
        return [lane for _, lane in sorted(ages, key=lambda pair: -pair[0])]

    def _seconds_until_ready(self, now: float) -> float | None:
        """How long the device may sleep until a batch is due whatever comes; None is for ever."""
        due = [
            ready_at
            for lane in self.lanes.values()
            if (ready_at := lane.batcher.ready_at()) is not None
        ]
        return max(0.0, min(due) - now) if due else None

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

    # -- the feeder -------------------------------------------------------

    def _feed(self) -> None:
        while not self.stopping.is_set():
            try:
                self._feed_once()
            except RedisError as exc:
                log.warning("reserve_failed", error=str(exc), exc_type=type(exc).__name__)
                self.stopping.wait(_REDIS_PAUSE_SECONDS)
            except Exception:
                log.exception("feeder_failed")
                self.stopping.wait(_REDIS_PAUSE_SECONDS)
        self._receive_last()
        self._release_unstarted()

    def _feed_once(self) -> None:
        if self._asked is not None:
            self._take_asked()
            return
        with self.changed:
            lane = self._hungry_lane()
            unarmed = (
                []
                if lane
                else [name for name, idle in self.lanes.items() if idle.room() and not idle.armed]
            )
        if lane is not None:
            self._ask(lane)
            return
        if unarmed:
            working = self.doorbell.arm(unarmed)
            self.touch()
            with self.changed:
                for name in unarmed:
                    self.lanes[name].armed = name not in working
                    self.lanes[name].ready |= name in working
            if working:
                return
        self._wait_for_change()

    def _ask(self, lane: Lane) -> None:
        """Start to reserve, a batch at a time, so that parsing one overlaps reserving the next."""
        lane.ask(min(lane.room(), lane.limits.max_batch))
        self._asked = lane

    def _receive(self) -> tuple[Lane, Reservation]:
        lane, self._asked = self._asked, None
        assert lane is not None
        reservation = lane.receive()
        self.touch()
        with self.changed:
            lane.ready, lane.armed = lane.backlog > 0, False
            lane.waiting += len(reservation.leases)
        return lane, reservation

    def _take_asked(self) -> None:
        lane, reservation = self._receive()
        asked_at = lane.asked_at
        try:
            with self.changed:
                following = self._hungry_lane()
            if following is not None:
                self._ask(following)
        finally:
            self._take(lane, reservation)
        if reservation.leases:
            lane.feed_seconds += (time.monotonic() - asked_at - lane.feed_seconds) / 4

    def _receive_last(self) -> None:
        """What was asked for when it was time to stop, so that it is handed back."""
        if self._asked is None:
            return
        try:
            lane, reservation = self._receive()
            with self.changed:
                lane.in_hand |= {one.tag: one for one in lane.read(reservation)}
        except RedisError as exc:
            log.warning("reserve_failed", error=str(exc), exc_type=type(exc).__name__)

    def _wait_for_change(self) -> None:
        with self.changed:
            if self.stopping.is_set() or self._hungry_lane() is not None:
                return
            seconds = _LOOK_AGAIN_SECONDS if self.doorbell.rings else _POLL_SECONDS
            if not self.changed.wait(seconds):
                for lane in self.lanes.values():
                    lane.armed = False

    def _hungry_lane(self) -> Lane | None:
        """The next lane, in turn, that has room and may have work."""
        lanes = list(self.lanes.values())
        for step in range(len(lanes)):
            lane = lanes[(self._turn + step) % len(lanes)]
            if lane.ready and lane.room():
                self._turn = (self._turn + step + 1) % len(lanes)
                return lane
        return None

    def _take(self, lane: Lane, reservation: Reservation) -> None:
        """Read what was reserved and pass it on: to the finisher, the decoders or the runner."""
        executions = lane.read(reservation)
        settled = [one for one in executions if one.settled is not None]
        with self.changed:
            for execution in executions:
                lane.in_hand[execution.tag] = execution
            lane.waiting -= len(settled)
        if settled:
            self.finisher.put(lane, settled)
        waiting = [one for one in executions if one.settled is None]
        waiting = self._set_aside_early(lane, waiting)
        self._fetch_blobs(lane, [one for one in waiting if one.has_blob])
        suspects = [one for one in waiting if one.suspect]
        if suspects:
            with self.changed:
                lane.suspects.extend(suspects)
                self.changed.notify_all()
        fresh = [one for one in waiting if not one.suspect]
        if fresh:
            self._decode(lane, fresh)

    def _fetch_blobs(self, lane: Lane, executions: list[Execution]) -> None:
        """Their leases are renewed meanwhile, so it may take until Redis is back."""
        while executions and not self.stopping.is_set():
            try:
                lane.fetch_blobs(executions)
            except RedisError as exc:
                log.warning("fetch_failed", error=str(exc), exc_type=type(exc).__name__)
                self.stopping.wait(_REDIS_PAUSE_SECONDS)
            else:
                return

    def _set_aside_early(self, lane: Lane, executions: list[Execution]) -> list[Execution]:
        """Park jobs whose ETA lies ahead; returns the others."""
        now = lane.server_time()
        early = [one for one in executions if one.eta is not None and one.eta > now]
        if not early:
            return executions
        for execution in early:
            execution.settled = "parked"
        with self.changed:
            lane.waiting -= len(early)
        self.finisher.put(lane, early)
        return [one for one in executions if one.settled is None]

    def _decode(self, lane: Lane, executions: list[Execution]) -> None:
        if self._decoders is None or lane.decode_seconds < _INLINE_DECODE_SECONDS:
            self._decode_chunk(lane, executions)
            return
        with self.changed:
            lane.decoding += len(executions)
        size = max(1, -(-len(executions) // self.settings.decode_threads))
        for first in range(0, len(executions), size):
            self._decoders.submit(self._decode_pooled, lane, executions[first : first + size])

    def _decode_pooled(self, lane: Lane, executions: list[Execution]) -> None:
        try:
            self._decode_chunk(lane, executions)
        finally:
            with self.changed:
                lane.decoding -= len(executions)
                self.changed.notify_all()

    def _decode_chunk(self, lane: Lane, executions: list[Execution]) -> None:
        handler = lane.handler
        if handler is None:  # unloaded since; the leases lapse or are handed back
            return
        began = time.monotonic()
        for execution in executions:
            pipeline.decode(execution, lane.spec, handler)
        lane.decode_seconds = (time.monotonic() - began) / len(executions)
        failed = [one for one in executions if one.settled is not None]
        now = time.monotonic()
        with self.changed:
            lane.waiting -= len(failed)
            for execution in executions:
                if execution.settled is None:
                    lane.batcher.add(execution, execution.cost, now)
            self.changed.notify_all()
        if failed:
            self.finisher.put(lane, failed)

    # -- shutdown ---------------------------------------------------------

    def _release_unstarted(self) -> None:
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
                    (one.tag, one.job_id, not one.suspect) for one in unstarted
                )
                log.info("leases_released", lane=lane.name, jobs=count)
            except RedisError as exc:
                log.warning("release_failed", lane=lane.name, error=str(exc))

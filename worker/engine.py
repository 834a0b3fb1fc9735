"""The threads that take jobs from lease to result.

1. feeder: reserves what the lanes want and hands it to the decoders
2. fetcher: gets inputs that are neither in the message nor in Redis (worker/fetcher.py)
3. decoders: turn inputs into items (in the feeder itself when there are none)
4. runner: the one thread that owns the device (worker/runner.py)
5. finisher: encodes and publishes, one script a batch (worker/finisher.py)
6. renewer, reaper and sweeper: leases, and inputs that no job needs (worker/caretaker.py)

They meet in `Engine`, behind one lock and condition. Nobody does network I/O
while holding it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog
from redis.exceptions import RedisError

from common.blobs import Blobs
from common.catalog import Catalog
from common.connect import cache_url_of, connect
from common.keys import LaneKeys
from common.scripts import Scripts
from common.settings import Settings
from worker.cache_writer import CacheWriter
from worker.caretaker import Reaper, Renewer, Sweeper
from worker.decoders import Decoded, Decoders
from worker.doorbell import Doorbell
from worker.fetcher import Fetcher
from worker.finisher import Finisher
from worker.health import HealthServer
from worker.lane import Lane
from worker.lease import Reservation
from worker.model_host import Errand, ModelHost
from worker.pipeline import Execution
from worker.runner import Runner
from worker.stages import DeviceTime, Idle, Passage
from worker.transfer import Later
from worker.turns import Candidate, Turns

log = structlog.get_logger(__name__)

_LOOK_AGAIN_SECONDS = 1.0
_POLL_SECONDS = 0.02
_REDIS_PAUSE_SECONDS = 0.2
_LOOK_AT_DEVICE_SECONDS = 1e-3
"""How often a device that works by itself is asked whether it is done."""
_MAX_UNPUBLISHED = 4
"""Batches that may wait for the finisher; with more, memory would grow without a bound."""
_CACHE_GRACE_SECONDS = 1.0
_MAX_UNPUBLISHED_IN_HURRY = 2
"""The same while tenants with few jobs have some here: they would wait behind the others' results.
One that is published and one that waits keep the device as busy, less what evens out jitter."""
_HURRY_SECONDS = 1.0
_INLINE_DECODE_SECONDS = 50e-6
"""Decoding that is cheaper than this per job is not worth handing to another thread."""


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
        self.decoders = Decoders(
            settings.decode_threads,
            settings.decode_timeout_seconds,
            self._on_decoded,
            self.device_time.busy_at,
        )
        self.fetcher = Fetcher(settings, blobs, self._on_fetched)
        self._fetched: list[tuple[Lane, Execution]] = []
        self._feeder = threading.Thread(target=self._feed, name="feeder", daemon=True)
        self._turn = 0
        self._hurry_until = 0.0
        self._asked: Lane | None = None
        """The lane whose reservation is on its way; the feeder's own."""
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
        self._release_unstarted()
        log.info("engine_stopped", in_hand=sum(len(lane.in_hand) for lane in self.lanes.values()))

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
                behind = self.finisher.pending >= most
                if not behind and (work := self._next_batch(now, on_device is None)):
                    return work
                if on_device is not None:
                    if on_device.done():
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

    # -- the feeder -------------------------------------------------------

    def _feed(self) -> None:
        while not self.stopping.is_set() and threading.current_thread() is self._feeder:
            try:
                self._feed_once()
            except RedisError as exc:
                log.warning("reserve_failed", error=str(exc), exc_type=type(exc).__name__)
                self.stopping.wait(_REDIS_PAUSE_SECONDS)
            except Exception:
                log.exception("feeder_failed")
                self.stopping.wait(_REDIS_PAUSE_SECONDS)
        if threading.current_thread() is self._feeder:
            self._receive_last()
            self._release_unstarted()

    def _feed_once(self) -> None:
        if self._fetched:
            self._take_fetched()
        if self._asked is not None:
            self._take_asked()
            return
        with self.changed:
            lane = self._next_to_ask()
            unarmed = (
                []
                if lane
                else [name for name, one in self.lanes.items() if one.listens() and not one.armed]
            )
        if lane is not None:
            self._ask(lane)
            return
        if unarmed:
            working = self.doorbell.arm(unarmed)
            self.touch()
            with self.changed:
                for name in unarmed:
                    self.lanes[name].found(name in working)
                if any(self.lanes[name].room() for name in working):
                    return
                if working:
                    self.changed.notify_all()  # a model is wanted
        self._wait_for_change()

    def _ask(self, lane: Lane) -> None:
        """Start to reserve, a batch at a time, so that parsing one overlaps reserving the next."""
        with self.changed:
            wanted = min(lane.room(), lane.limits.max_batch)
            if lane.hurried:  # it is among the first, and soon here where few are asked for
                wanted = min(wanted, 2 * self.settings.tenant_window_jobs)
            lane.hurried = False  # whoever hurries from now on asks again
        try:
            lane.ask(wanted)
        except BaseException:
            lane.asking = False
            raise
        self._asked = lane

    def _receive(self) -> tuple[Lane, Reservation]:
        lane, self._asked = self._asked, None
        assert lane is not None
        try:
            reservation = lane.receive()
        except BaseException:
            lane.asking = False
            raise
        self.touch()
        with self.changed:
            lane.asking = False
            lane.ready, lane.armed = lane.backlog > 0 or lane.hurried, False
            lane.waiting += len(reservation.leases)
        return lane, reservation

    def _take_asked(self) -> None:
        lane, reservation = self._receive()
        asked_at = lane.asked_at
        try:
            with self.changed:
                following = self._next_to_ask()
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
            if self.stopping.is_set() or self._fetched or self._hungry_lane() is not None:
                return
            seconds = _LOOK_AGAIN_SECONDS if self.doorbell.rings else _POLL_SECONDS
            if not self.changed.wait(seconds):
                for lane in self.lanes.values():
                    lane.armed = False

    def _next_to_ask(self) -> Lane | None:
        """The hungry lane, marked under the lock: its model must not leave meanwhile."""
        lane = self._hungry_lane()
        if lane is not None:
            lane.asking = True
        return lane

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
        self._pass_on(lane, self._send_for_inputs(lane, waiting))

    def _send_for_inputs(self, lane: Lane, executions: list[Execution]) -> list[Execution]:
        """Have the inputs fetched that are elsewhere; returns the others."""
        away = [one for one in executions if one.input_url is not None or one.stored]
        if not away:
            return executions
        with self.changed:
            lane.waiting -= len(away)
            lane.fetching += len(away)
        self.fetcher.put(lane, away)
        return [one for one in executions if one.input_url is None and not one.stored]

    def _on_fetched(self, lane: Lane, execution: Execution) -> None:
        """Its input is here, or it failed; the feeder hands it on."""
        failed = execution.settled is not None
        with self.changed:
            lane.fetching -= 1
            if not failed:
                lane.waiting += 1
                self._fetched.append((lane, execution))
            self.changed.notify_all()
        if failed:
            self.finisher.put(lane, [execution])

    def _take_fetched(self) -> None:
        with self.changed:
            fetched, self._fetched = self._fetched, []
        for lane in {lane.name: lane for lane, _ in fetched}.values():
            self._pass_on(lane, [one for its, one in fetched if its is lane])

    def _pass_on(self, lane: Lane, waiting: list[Execution]) -> None:
        """What has its input goes to the decoders; a suspect is decoded when it runs, alone."""
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
        pooled = self.settings.decode_threads and lane.decode_seconds >= _INLINE_DECODE_SECONDS
        if not pooled:
            self.decoders.run(lane, executions, self._replace_feeder)
            return
        with self.changed:
            lane.decoding += len(executions)
        self.decoders.put(lane, executions)

    def _on_decoded(self, decoded: Decoded) -> None:
        lane, executions = decoded.lane, decoded.executions
        failed = [one for one in executions if one.settled is not None]
        now = time.monotonic()
        passage = Passage(executions[0].arrived, decoded.began, now, len(executions))
        beside = self.device_time.busy_at(now) - decoded.busy_before
        with self.changed:
            lane.waiting -= len(failed)
            if decoded.pooled:
                lane.decoding -= len(executions)
            for execution in executions:
                if not failed or execution.settled is None:
                    execution.passage = passage
                    lane.add(execution, now)
            lane.stages.decoded(passage, len(executions), beside)
            self.changed.notify_all()
        if failed:
            self.finisher.put(lane, failed)

    def _replace_feeder(self) -> None:
        """The feeder is lost in a decode; another goes on where it was."""
        self._feeder = threading.Thread(target=self._feed, name="feeder", daemon=True)
        self._feeder.start()

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

"""The one thread that reserves: jobs for each lane, up to the lane's room.

The next reservation is requested before the last one is routed, so that Redis runs it
meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import structlog
from redis.exceptions import RedisError

from common.redis.trouble import TROUBLE
from worker.jobs.lease_calls import ReleasedJob
from worker.jobs.leases import LaneLeases, Reservation
from worker.lanes.lane import Lane
from worker.lanes.notifier import Notifier
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.pipeline.decode_pool import CallerReplaced
from worker.pipeline.intake import Intake

log = structlog.get_logger(__name__)

_LOOK_AGAIN_SECONDS = 1.0
_POLL_SECONDS = 0.02
_REDIS_PAUSE_SECONDS = 0.2
_MAX_UNPUBLISHED = 64
"""Groups that may wait for the finisher: inputs that fail are submitted to it as fast as
jobs are reserved."""


class Reserver:
    """Reserves for all lanes, in turn, until the worker stops."""

    def __init__(
        self,
        state: WorkerState,
        leases: Mapping[str, LaneLeases],
        notifier: Notifier,
        intake: Intake,
        redis_health: RedisHealth,
        starved_jobs: int,
    ) -> None:
        """starved_jobs is how many to reserve at most where a starved tenant has a job."""
        self._state = state
        self._leases = leases
        self._notifier = notifier
        self._intake = intake
        self._redis_health = redis_health
        self._starved_jobs = starved_jobs
        self._turn = 0
        self._failing = False
        """Whether Redis was in trouble lately."""
        self._looked_at = 0.0
        """When all lanes were last checked, by the steady clock."""
        self._asked: Lane | None = None
        """The lane whose reservation was requested and not yet received."""
        self._thread = self._new_thread()

    def start(self) -> None:
        """Start the reserving thread."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, once the worker stops."""
        self._thread.join(seconds)

    def release_unstarted(self) -> None:
        """Release, at once, the jobs that no batch contains."""
        for lane in self._state.lanes.values():
            unstarted = self._state.take_unstarted(lane)
            if not unstarted:
                continue
            try:
                count = self._leases[lane.name].release(
                    ReleasedJob(one.tag, one.job_id, not one.suspect) for one in unstarted
                )
                log.info("leases_released", lane=lane.name, jobs=count)
            except RedisError as exc:
                log.warning("release_failed", lane=lane.name, error=str(exc))

    def release_started(self) -> None:
        """Release the jobs of a run that does not end: each has spent an attempt, and runs alone
        from now on.
        """
        for lane in self._state.lanes.values():
            started = self._state.take_started(lane)
            if not started:
                continue
            try:
                jobs = (ReleasedJob(one.tag, one.job_id, uncount=False) for one in started)
                count = self._leases[lane.name].release(jobs)
                log.warning("leases_of_a_run_released", lane=lane.name, jobs=count)
            except RedisError as exc:
                log.warning("release_failed", lane=lane.name, error=str(exc))

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="reserver", daemon=True)

    def _replace(self) -> None:
        """Start another thread in place of one that hangs in a decode."""
        self._thread = self._new_thread()
        self._thread.start()

    def _run(self) -> None:
        while not self._state.stopping.is_set():
            try:
                self._round()
                if self._failing:
                    self._failing = not TROUBLE.over()
            except CallerReplaced:
                return
            except RedisError as exc:
                self._failing = True
                TROUBLE.note("reserving", exc)
                self._state.stopping.wait(_REDIS_PAUSE_SECONDS)
            except Exception:
                log.exception("reserver_failed")
                self._state.stopping.wait(_REDIS_PAUSE_SECONDS)
        self._receive_last()
        self.release_unstarted()

    def _round(self) -> None:
        self._intake.accept_fetched(self._replace)
        if self._asked is not None:
            self._take_asked()
            return
        lane, unarmed = self._look()
        if lane is not None:
            self._ask(lane)
        elif not (unarmed and self._arm(unarmed)):
            self._wait_for_change()

    def _look(self) -> tuple[Lane | None, list[str]]:
        """The lane to reserve for; where there is none, the lanes that the notifier should arm."""
        with self._state.lock:
            due = self._look_is_due()
            if due:
                self._disarm()
            elif lane := self._next_to_ask():
                return lane, []
            lanes = self._state.lanes.items()
            return None, [name for name, one in lanes if one.listens() and not one.armed]

    def _arm(self, names: list[str]) -> bool:
        """Check these lanes for work and arm the others; returns whether a lane can reserve now."""
        working = self._notifier.arm(names)
        now = time.monotonic()
        self._redis_health.answered(now)
        with self._state.lock:
            lanes = self._state.lanes
            for name in names:
                lanes[name].looked_at(name in working, now)
            if any(lanes[name].room() for name in working):
                return True
            if working:
                self._state.changed.notify_all()  # a model is wanted
        return False

    def _look_is_due(self) -> bool:
        """Whether it is time to check all lanes, with or without a notification and whatever the
        load of one lane: a notification can be lost, and a lane that is not armed gets none.
        """
        return self._seconds_until_look() <= 0

    def _disarm(self) -> None:
        self._looked_at = time.monotonic()
        for lane in self._state.lanes.values():
            lane.armed = False

    def _seconds_until_look(self) -> float:
        pause = _LOOK_AGAIN_SECONDS if self._notifier.is_told else _POLL_SECONDS
        return self._looked_at + pause - time.monotonic()

    def _ask(self, lane: Lane) -> None:
        """Request one batch, so that parsing it overlaps reserving the next."""
        with self._state.lock:
            wanted = min(lane.room(), lane.limits.max_batch)
            if lane.starved:  # its job is among the first; a small reservation returns sooner
                wanted = min(wanted, self._starved_jobs)
            lane.starved = False  # a tenant starved from now on is notified again
        try:
            lane.asked_at = time.monotonic()
            self._leases[lane.name].ask(wanted, lane.result_ttl)
        except BaseException:
            lane.asking = False
            raise
        self._asked = lane

    def _receive(self) -> tuple[Lane, Reservation]:
        lane, self._asked = self._asked, None
        assert lane is not None
        try:
            reservation = self._leases[lane.name].receive()
        except BaseException:
            lane.asking = False
            raise
        now = time.monotonic()
        self._redis_health.answered(now)
        lane.learned(reservation, now)
        with self._state.lock:
            lane.asking = False
            lane.ready, lane.armed = lane.backlog > 0 or lane.starved, False
            lane.waiting += len(reservation.leases)
            if not reservation.leases:
                self._state.changed.notify_all()  # the device waits for another reason now
        return lane, reservation

    def _take_asked(self) -> None:
        lane, reservation = self._receive()
        asked_at = lane.asked_at
        try:
            with self._state.lock:
                following = None if self._look_is_due() else self._next_to_ask()
            if following is not None:
                self._ask(following)
        finally:
            self._intake.accept(lane, reservation, self._replace)
        if reservation.leases:
            lane.stats.reserved(time.monotonic() - asked_at)

    def _receive_last(self) -> None:
        """Receive the reservation that was requested before the stop, so that it is released."""
        if self._asked is None:
            return
        try:
            self._intake.hold(*self._receive())
        except RedisError as exc:
            TROUBLE.note("reserving", exc)

    def _wait_for_change(self) -> None:
        state = self._state
        with state.lock:
            if state.stopping.is_set() or self._intake.has_fetched or self._hungry_lane():
                return
            seconds = self._seconds_until_look()
            if seconds > 0:
                state.changed.wait(seconds)

    def _next_to_ask(self) -> Lane | None:
        """The hungry lane, marked under the lock: its model must not be unloaded meanwhile."""
        lane = self._hungry_lane()
        if lane is not None:
            lane.asking = True
        return lane

    def _hungry_lane(self) -> Lane | None:
        """The next lane, in turn, that has room and may have work."""
        if self._state.unpublished >= _MAX_UNPUBLISHED:
            return None
        lanes = list(self._state.lanes.values())
        for step in range(len(lanes)):
            lane = lanes[(self._turn + step) % len(lanes)]
            if lane.ready and lane.room():
                self._turn = (self._turn + step + 1) % len(lanes)
                return lane
        return None

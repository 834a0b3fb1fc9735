"""The one thread that reserves: what the lanes want, up to what they may hold.

What it reserved it reads and passes on: settled jobs to the finisher, inputs that
are elsewhere to the fetcher, the rest to the decoders, or decodes it itself where
that is cheaper than handing it over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from worker.jobs.leases import Reservation
from worker.jobs.steps import Execution
from worker.lanes.lane import Lane
from worker.lanes.stages import Passage
from worker.pipeline.decode_pool import Decoded

if TYPE_CHECKING:
    from worker.engine import Engine

log = structlog.get_logger(__name__)

_LOOK_AGAIN_SECONDS = 1.0
_POLL_SECONDS = 0.02
_REDIS_PAUSE_SECONDS = 0.2
_MOST_UNPUBLISHED = 64
"""Puts that may wait for the finisher: inputs that fail come back as fast as we reserve."""
_INLINE_DECODE_SECONDS = 50e-6
"""Decoding that is cheaper than this per job is not worth handing to another thread."""


class Feeder:
    """Reserves for all lanes, in turn, until the engine stops."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lanes = engine.lanes
        self._changed = engine.changed
        self._stopping = engine.stopping
        self._fetched: list[tuple[Lane, Execution]] = []
        self._turn = 0
        self._looked_at = 0.0
        """When all lanes were last looked at, by the steady clock."""
        self._asked: Lane | None = None
        """The lane whose reservation is on its way."""
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self) -> None:
        """Begin to reserve."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for its end, once the engine stops."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set() and threading.current_thread() is self._thread:
            try:
                self._feed()
            except RedisError as exc:
                log.warning("reserve_failed", error=str(exc), exc_type=type(exc).__name__)
                self._stopping.wait(_REDIS_PAUSE_SECONDS)
            except Exception:
                log.exception("feeder_failed")
                self._stopping.wait(_REDIS_PAUSE_SECONDS)
        if threading.current_thread() is self._thread:
            self._receive_last()
            self._engine.release_unstarted()

    def _feed(self) -> None:
        if self._fetched:
            self._take_fetched()
            if threading.current_thread() is not self._thread:
                return
        if self._asked is not None:
            self._take_asked()
            return
        with self._changed:
            due = self._look_is_due()
            if due:
                self._disarm()
            lane = None if due else self._next_to_ask()
            unarmed = (
                []
                if lane
                else [name for name, one in self._lanes.items() if one.listens() and not one.armed]
            )
        if lane is not None:
            self._ask(lane)
            return
        if unarmed:
            working = self._engine.doorbell.arm(unarmed)
            self._engine.touch()
            with self._changed:
                for name in unarmed:
                    self._lanes[name].found(name in working)
                if any(self._lanes[name].room() for name in working):
                    return
                if working:
                    self._changed.notify_all()  # a model is wanted
        self._wait_for_change()

    def _look_is_due(self) -> bool:
        """Whether all lanes should be looked at, rung or not, however busy one keeps us: a ring
        can be lost, and a lane that was not armed cannot ring.
        """
        return self._seconds_until_look() <= 0

    def _disarm(self) -> None:
        self._looked_at = time.monotonic()
        for lane in self._lanes.values():
            lane.armed = False

    def _seconds_until_look(self) -> float:
        pause = _LOOK_AGAIN_SECONDS if self._engine.doorbell.rings else _POLL_SECONDS
        return self._looked_at + pause - time.monotonic()

    def _ask(self, lane: Lane) -> None:
        """Start to reserve, a batch at a time, so that parsing one overlaps reserving the next."""
        with self._changed:
            wanted = min(lane.room(), lane.limits.max_batch)
            if lane.hurried:  # it is among the first, and soon here where few are asked for
                wanted = min(wanted, 2 * self._engine.settings.tenant_window_jobs)
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
        self._engine.touch()
        with self._changed:
            lane.asking = False
            lane.ready, lane.armed = lane.backlog > 0 or lane.hurried, False
            lane.waiting += len(reservation.leases)
        return lane, reservation

    def _take_asked(self) -> None:
        lane, reservation = self._receive()
        asked_at = lane.asked_at
        try:
            with self._changed:
                following = None if self._look_is_due() else self._next_to_ask()
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
            with self._changed:
                lane.in_hand |= {one.tag: one for one in lane.read(reservation)}
        except RedisError as exc:
            log.warning("reserve_failed", error=str(exc), exc_type=type(exc).__name__)

    def _wait_for_change(self) -> None:
        with self._changed:
            if self._stopping.is_set() or self._fetched or self._hungry_lane() is not None:
                return
            seconds = self._seconds_until_look()
            if seconds > 0:
                self._changed.wait(seconds)

    def _next_to_ask(self) -> Lane | None:
        """The hungry lane, marked under the lock: its model must not leave meanwhile."""
        lane = self._hungry_lane()
        if lane is not None:
            lane.asking = True
        return lane

    def _hungry_lane(self) -> Lane | None:
        """The next lane, in turn, that has room and may have work."""
        if self._engine.finisher.pending >= _MOST_UNPUBLISHED:
            return None
        lanes = list(self._lanes.values())
        for step in range(len(lanes)):
            lane = lanes[(self._turn + step) % len(lanes)]
            if lane.ready and lane.room():
                self._turn = (self._turn + step + 1) % len(lanes)
                return lane
        return None

    def _take(self, lane: Lane, reservation: Reservation) -> None:
        """Read what was reserved and pass it on: to the finisher, the decoders or the runner."""
        executions = lane.read(reservation)
        settled, waiting = _parted(executions)
        with self._changed:
            for execution in executions:
                lane.in_hand[execution.tag] = execution
            lane.waiting -= len(settled)
        if settled:
            self._engine.finisher.put(lane, settled)
        waiting = self._set_aside_early(lane, waiting)
        if self._fetch_blobs(lane, [one for one in waiting if one.has_blob]):
            self._pass_on(lane, self._send_for_inputs(lane, waiting))

    def _send_for_inputs(self, lane: Lane, executions: list[Execution]) -> list[Execution]:
        """Have the inputs fetched that are elsewhere; returns the others."""
        away = [one for one in executions if one.input_url is not None or one.stored]
        if not away:
            return executions
        with self._changed:
            lane.waiting -= len(away)
            lane.fetching += len(away)
        self._engine.fetcher.put(lane, away)
        return [one for one in executions if one.input_url is None and not one.stored]

    def on_fetched(self, lane: Lane, execution: Execution) -> None:
        """Its input is here, or it failed; the feeder hands it on."""
        failed = execution.settled is not None
        with self._changed:
            lane.fetching -= 1
            if not failed:
                lane.waiting += 1
                self._fetched.append((lane, execution))
            self._changed.notify_all()
        if failed:
            self._engine.finisher.put(lane, [execution])

    def _take_fetched(self) -> None:
        """Of one lane: should decoding them hang, another feeder goes on with the others."""
        with self._changed:
            lane = self._fetched[0][0]
            taken = [one for its, one in self._fetched if its is lane]
            self._fetched = [(its, one) for its, one in self._fetched if its is not lane]
        self._pass_on(lane, taken)

    def _pass_on(self, lane: Lane, waiting: list[Execution]) -> None:
        """What has its input goes to the decoders; a suspect is decoded when it runs, alone."""
        suspects = [one for one in waiting if one.suspect]
        if suspects:
            with self._changed:
                lane.suspects.extend(suspects)
                self._changed.notify_all()
        fresh = [one for one in waiting if not one.suspect]
        if fresh:
            self._decode(lane, fresh)

    def _fetch_blobs(self, lane: Lane, executions: list[Execution]) -> bool:
        """Whether their inputs are here; if not we stop, and they are to be handed back.

        Their leases are renewed meanwhile, so it may take until Redis is back.
        """
        if not executions:
            return True
        while not self._stopping.is_set():
            try:
                lane.fetch_blobs(executions)
            except RedisError as exc:
                log.warning("fetch_failed", error=str(exc), exc_type=type(exc).__name__)
                self._stopping.wait(_REDIS_PAUSE_SECONDS)
            else:
                return True
        return False

    def _set_aside_early(self, lane: Lane, executions: list[Execution]) -> list[Execution]:
        """Park jobs whose ETA lies ahead; returns the others."""
        now = lane.server_time()
        early: list[Execution] = []
        due: list[Execution] = []
        for execution in executions:
            is_early = execution.eta is not None and execution.eta > now
            (early if is_early else due).append(execution)
        if not early:
            return executions
        for execution in early:
            execution.settled = "parked"
        with self._changed:
            lane.waiting -= len(early)
        self._engine.finisher.put(lane, early)
        return due

    def _decode(self, lane: Lane, executions: list[Execution]) -> None:
        pooled = (
            self._engine.settings.decode_threads and lane.decode_seconds >= _INLINE_DECODE_SECONDS
        )
        if not pooled:
            self._engine.decoders.run(lane, executions, self._replace)
            return
        with self._changed:
            lane.decoding += len(executions)
        self._engine.decoders.put(lane, executions)

    def on_decoded(self, decoded: Decoded) -> None:
        """They are items, or failed."""
        lane, executions = decoded.lane, decoded.executions
        failed, items = _parted(executions)
        now = time.monotonic()
        passage = Passage(executions[0].arrived, decoded.began, now, len(executions))
        beside = self._engine.device_time.busy_at(now) - decoded.busy_before
        with self._changed:
            lane.waiting -= len(failed)
            if decoded.pooled:
                lane.decoding -= len(executions)
            for execution in items:
                execution.passage = passage
                lane.add(execution, now)
            lane.stages.decoded(passage, len(executions), beside)
            self._changed.notify_all()
        if failed:
            self._engine.finisher.put(lane, failed)

    def _replace(self) -> None:
        """The feeder is lost in a decode; another goes on where it was."""
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()


def _parted(executions: Sequence[Execution]) -> tuple[list[Execution], list[Execution]]:
    """Those that are settled, and the others. Each is asked once: a cancel may settle any of
    them meanwhile, and one that is in neither list would stay in our hands for ever.
    """
    settled: list[Execution] = []
    others: list[Execution] = []
    for execution in executions:
        (others if execution.settled is None else settled).append(execution)
    return settled, others

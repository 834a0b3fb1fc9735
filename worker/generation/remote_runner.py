"""Gives servers the jobs of their lanes, as many as they have slots.

The device's thread has no part in it: a thread of its own takes jobs from the lanes' batchers, in
their order, and starts each on its server's loop. It looks now and then at those that run, and
closes the streams of jobs that were canceled, revoked or lost.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from math import inf
from weakref import WeakKeyDictionary

import structlog
from redis.exceptions import RedisError

from common.errors import JobExpired
from common.redis.trouble import TROUBLE
from worker.generation.generation import seed_of
from worker.generation.remote import Gate, Run, ServerIsAway, conduct
from worker.generation.remote_teller import RemoteTeller
from worker.jobs.execution import Execution
from worker.jobs.lease_calls import ReleasedJob
from worker.jobs.leases import LaneLeases
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.models.remote import Answer, RemoteGenerator, Request, is_remote
from worker.pipeline.starting import Starting

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.05
_IDLE_SECONDS = 1.0

_Taken = tuple[Lane, RemoteGenerator, Execution]


class RemoteRunner:
    """The thread."""

    def __init__(
        self,
        state: WorkerState,
        leases: Mapping[str, LaneLeases],
        starting: Starting,
        teller: RemoteTeller,
        touch: Callable[[str], None],
    ) -> None:
        """touch is told of a model that has work."""
        self._state = state
        self._leases = leases
        self._starting = starting
        self._teller = teller
        self._touch = touch
        self._here: dict[bytes, Execution] = {}
        """Jobs that were taken and have not left, by tag. Guarded by the state's lock, as `taken`
        of the servers, and as the next two."""
        self._runs: dict[bytes, Run] = {}
        """Those that were started."""
        self._gates: WeakKeyDictionary[RemoteGenerator, Gate] = WeakKeyDictionary()
        self._heard: WeakKeyDictionary[RemoteGenerator, bool] = WeakKeyDictionary()
        self._closed_since: dict[str, float] = {}
        """By lane, since when its server takes nothing while jobs wait for it here."""
        self._stop_at = inf
        self._thread = threading.Thread(target=self._serve, name="remote", daemon=True)

    def start(self) -> None:
        """Start the thread, and the one that tells."""
        self._teller.on_left = self.left
        self._teller.start()
        self._thread.start()

    def stop(self, stop_at: float, give_up_at: float) -> None:
        """Let jobs in servers end until stop_at; the others go on elsewhere. What they have said is
        written until give_up_at.
        """
        self._stop_at = stop_at
        self._state.wake()
        if self._thread.is_alive():
            self._thread.join(max(0.0, stop_at - time.monotonic()) + _IDLE_SECONDS)
        with self._state.lock:
            left = list(self._runs.values())
        for run in left:
            run.leaving = True
            run.close()
        self._teller.stop(give_up_at)

    def left(self, run: Run) -> None:
        """It has left its server; its slot is free."""
        self._forget(run.counted_by, run.execution)

    def _forget(self, server: RemoteGenerator, execution: Execution) -> None:
        with self._state.lock:
            self._runs.pop(execution.tag, None)
            if self._here.pop(execution.tag, None) is not None:
                server.taken -= 1
                self._state.set_in_servers(self._here.values())
                self._state.changed.notify_all()

    def _serve(self) -> None:
        lanes, stopping = self._state.lanes.values(), self._state.stopping
        while not any(lane.remote for lane in lanes):  # there may never be one
            if stopping.wait(_IDLE_SECONDS / 2):
                return
        while not self._is_over():
            try:
                with self._state.lock:
                    taken, late = self._take(), self._take_late(time.monotonic())
                    if not (taken or late):
                        self._state.changed.wait(_LOOK_SECONDS if self._runs else _IDLE_SECONDS)
                for lane, executions in late.items():
                    self._release(lane, executions)
                for one in taken:
                    self._start_safely(*one)
                self._close_unwanted()
            except Exception:
                log.exception("remote_runner_failed")
                time.sleep(_LOOK_SECONDS)

    def _is_over(self) -> bool:
        if not self._state.stopping.is_set():
            return False
        return not self._runs or time.monotonic() >= self._stop_at

    # -- holding the lock ----------------------------------------------------

    def _take(self) -> list[_Taken]:
        """The jobs that their servers have slots for."""
        found: list[_Taken] = []
        if self._state.stopping.is_set():
            return found
        for lane in self._state.lanes.values():
            server = lane.remote
            if server is None:
                continue
            if server not in self._heard:
                self._heard[server] = True
                server.on_change(self._state.wake)
            while server.taken < server.slots and (one := _next(lane)) is not None:
                server.taken += 1
                self._state.took(lane, [one])
                self._here[one.tag] = one
                found.append((lane, server, one))
        if found:
            self._state.set_in_servers(self._here.values())
        return found

    def _take_late(self, now: float) -> dict[Lane, list[Execution]]:
        """Jobs that have waited too long for a server that takes none."""
        found: dict[Lane, list[Execution]] = {}
        for lane in self._state.lanes.values():
            server = lane.remote
            if server is None or server.slots or not (lane.suspects or len(lane.batcher)):
                self._closed_since.pop(lane.name, None)
            elif now - self._closed_since.setdefault(lane.name, now) > server.patience_seconds:
                waiting = [*lane.suspects, *lane.batcher.take_all()]
                lane.suspects.clear()
                lane.waiting -= len(waiting)
                found[lane] = waiting
        return found

    # -- without it ----------------------------------------------------------

    def _start_safely(self, lane: Lane, server: RemoteGenerator, execution: Execution) -> None:
        try:
            self._start(lane, server, execution)
        except Exception:
            log.exception("job_lost_to_a_fault_of_ours", lane=lane.name)
            self._forget(server, execution)
            self._state.released(lane, [execution])  # the lease expires and is reaped

    def _start(self, lane: Lane, server: RemoteGenerator, execution: Execution) -> None:
        if not self._may_start(lane, execution):
            self._forget(server, execution)
            return
        self._touch(lane.spec.name)
        execution.started = now = time.monotonic()
        request: Request = execution.item
        handler = execution.handler
        assert is_remote(handler)
        seed = request.options.seed
        request.seed = seed_of(execution.job_id) % handler.seeds if seed is None else seed
        if not request.options.repeatable:
            execution.digest = ""  # whoever joined it, or got its result, would be told its luck
        run = Run(lane, execution, handler, _answer(execution, request), now, server)
        run.deaths, run.entry = execution.attempt - 1, execution.said_entries
        with self._state.lock:
            self._runs[execution.tag] = run
        if run.answer.finished:  # all was said; the result was not published
            self._teller.ended(run, None)
            return
        work = self._conduct(run)
        try:
            run.future = asyncio.run_coroutine_threadsafe(work, handler.loop)
        except RuntimeError:  # its loop was closed
            work.close()
            self._teller.ended(run, ServerIsAway())
            return
        run.future.add_done_callback(lambda future: self._done(run, future))

    def _may_start(self, lane: Lane, execution: Execution) -> bool:
        if execution.tag in self._starting.end_unwanted(lane, [execution]):
            return False
        if execution.suspect and not self._starting.start_suspect(lane, execution):
            return False
        if not is_remote(execution.handler):  # the lane's alias has moved to another kind of model
            self._release(lane, [execution])
            return False
        return True

    def _done(self, run: Run, future: Future[None]) -> None:
        if future.cancelled():
            error: BaseException | None = (
                ServerIsAway() if run.leaving else asyncio.CancelledError()
            )
        else:
            error = future.exception()
        self.left(run)  # at once, so that the next job has its slot
        self._teller.ended(run, error)

    async def _conduct(self, run: Run) -> None:
        gate = self._gates.setdefault(run.handler, Gate())
        try:
            async with asyncio.timeout(_seconds_left(run)):
                await conduct(run, gate, self._teller.tell, time.monotonic)
        except TimeoutError as exc:
            raise JobExpired("the deadline passed before the answer's end") from exc

    def _close_unwanted(self) -> None:
        with self._state.lock:
            runs = list(self._runs.values())
        for run in runs:
            execution = run.execution
            if execution.disposition is None and self._starting.is_revoked(execution):
                execution.disposition = "canceled"
            if execution.disposition is not None:
                run.close()

    def _release(self, lane: Lane, executions: list[Execution]) -> None:
        jobs = [ReleasedJob(one.tag, one.job_id, not one.suspect) for one in executions]
        try:
            count = self._leases[lane.name].release(jobs)
            log.warning("jobs_released_by_a_server_that_is_away", lane=lane.name, jobs=count)
        except RedisError as exc:
            TROUBLE.note("releasing", exc, lane=lane.name)  # the leases expire and are reaped
        self._state.released(lane, executions)


def _next(lane: Lane) -> Execution | None:
    """The next job of a lane: those that were tried before come first."""
    if lane.suspects:
        return lane.suspects.popleft()
    found = lane.batcher.next_batch(time.monotonic(), device_idle=True)
    return found[0] if found else None


def _answer(execution: Execution, request: Request) -> Answer:
    """The answer with what another worker has said of it."""
    answer = Answer.to(request, streamed=request.options.stream)
    for number, said in (execution.said or {}).items():
        if number >= len(answer.choices):
            continue
        choice = answer.choices[number]
        choice.text = said.text.removeprefix(request.echoed)
        choice.tokens, choice.logprobs = list(said.tokens), list(said.logprobs)
        choice.count = len(said.tokens) or len(said.logprobs)
        choice.finish = said.finish
        answer.begun = True
    return answer


def _seconds_left(run: Run) -> float | None:
    """Until its deadline, or as long as its Celery client allows."""
    execution = run.execution
    limits = [one for one in execution.time_limits or () if one]
    if execution.deadline is not None:
        limits.append(execution.deadline - run.lane.server_time())
    return max(0.0, min(limits)) if limits else None

"""Writes what jobs in servers have said, and submits those that have ended to the finisher.

On a thread of its own, as Redis may be slow or away: what is said meanwhile goes into one entry for
each job then. Nothing is submitted before the last of its text is written, so that a reader who
sees the end has seen all.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog
from redis.exceptions import RedisError

from common.errors import JobExpired, ServerFailed
from common.generation.said import Delta as SaidDelta
from common.generation.said import dump_entry
from common.redis.trouble import TROUBLE
from worker.generation.remote import Run, ServerIsAway
from worker.guard.raised import RAISED
from worker.jobs.execution import Execution, Hold, judge_time
from worker.jobs.lease_calls import ReleasedJob, SaidJob
from worker.jobs.leases import LaneLeases
from worker.lanes.lane import Lane
from worker.lanes.patience import PAUSE_SECONDS, until_accepted
from worker.lanes.state import WorkerState
from worker.pipeline.error_policy import Retries, decide
from worker.pipeline.failed_batch import charge
from worker.pipeline.finisher import Finisher

log = structlog.get_logger(__name__)


class Ended(NamedTuple):
    """A job that leaves its server, and what it raised."""

    run: Run
    error: BaseException | None


class RemoteTeller:
    """The thread."""

    def __init__(
        self,
        state: WorkerState,
        leases: Mapping[str, LaneLeases],
        finisher: Finisher,
        retries: Retries,
        stream_seconds: int,
        pace_seconds: float,
    ) -> None:
        """pace_seconds is the least time from one write to the next, but for first words and ends:
        tokens of all jobs go together.
        """
        self._state = state
        self._leases = leases
        self._finisher = finisher
        self._retries = retries
        self._stream_seconds = stream_seconds
        self._pace_seconds = pace_seconds
        self.on_left: Callable[[Run], None] = lambda _run: None
        """Told of each job that has left its server, in case nobody was told before."""
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._urgent = threading.Event()
        self._spoke: dict[Run, None] = {}
        self._ended: list[Ended] = []
        self._give_up_at: float | None = None
        self._thread = threading.Thread(target=self._serve, name="remote-teller", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, give_up_at: float) -> None:
        """Write and submit what there is, until this time."""
        self._give_up_at = give_up_at
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(max(0.0, give_up_at - time.monotonic()) + PAUSE_SECONDS)

    def tell(self, run: Run) -> None:
        """It has said something."""
        with self._lock:
            self._spoke[run] = None
        if not run.entry:
            self._urgent.set()
        self._news.set()

    def ended(self, run: Run, error: BaseException | None) -> None:
        """It has left its server."""
        with self._lock:
            self._ended.append(Ended(run, error))
        self._urgent.set()
        self._news.set()

    def _serve(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            self._urgent.clear()
            with self._lock:
                spoke, self._spoke = self._spoke, {}
                ended, self._ended = self._ended, []
            try:
                self._round(list(spoke), ended)
            except Exception:
                log.exception("told_lost_to_a_fault_of_ours", jobs=len(ended))
                for run, _ in ended:  # the leases expire and are reaped
                    self.on_left(run)
                    self._state.released(run.lane, [run.execution])
            if self._give_up_at is not None and not (self._spoke or self._ended):
                return
            self._urgent.wait(self._pace_seconds)

    def _round(self, spoke: list[Run], ended: list[Ended]) -> None:
        for one in ended:
            self.on_left(one.run)
            _judge(one, self._retries)
        said: dict[Run, list[SaidDelta]] = {
            run: run.take_said() for run in dict.fromkeys([*spoke, *(one.run for one in ended)])
        }
        by_lane: dict[Lane, list[tuple[Run, bytes]]] = {}
        for run, deltas in said.items():
            if deltas and run.execution.disposition != "lost":
                run.entry += 1
                by_lane.setdefault(run.lane, []).append((run, dump_entry(deltas)))
        for lane, entries in by_lane.items():
            self._write(lane, entries)
        for lane in {one.run.lane: None for one in ended}:
            self._submit(lane, [one for one in ended if one.run.lane is lane])

    def _write(self, lane: Lane, entries: list[tuple[Run, bytes]]) -> None:
        jobs = [
            SaidJob(run.execution.tag, run.execution.job_id, run.entry, self._seconds(run), entry)
            for run, entry in entries
        ]
        leases = self._leases[lane.name]
        fenced = until_accepted(
            lambda: leases.say(jobs), "writing what was said", lane.name, lambda: self._give_up_at
        )
        for position in fenced or ():
            run = entries[position][0]
            run.execution.disposition = "lost"
            run.close()

    def _seconds(self, run: Run) -> int:
        """How long its stream stays from now on."""
        if run.answer.finished:
            return min(self._stream_seconds, run.lane.result_ttl)
        return self._stream_seconds

    def _submit(self, lane: Lane, ended: list[Ended]) -> None:
        now = time.monotonic()
        others: list[Execution] = []
        released: list[Run] = []
        for run, error in ended:
            execution = run.execution
            if execution.output is not None:
                _measure(run, now, self._state)
                ran_ms = max(0.001, (now - run.began) * 1000)
                self._finisher.submit_batch(lane, [execution], ran_ms)
            elif isinstance(error, ServerIsAway) and execution.disposition is None:
                released.append(run)
            else:
                others.append(execution)
        if released:
            self._release(lane, released)
        if others:
            self._finisher.submit_ended(lane, others)

    def _release(self, lane: Lane, runs: list[Run]) -> None:
        """Have them go on elsewhere, or here later; it costs those an attempt that saw an end."""
        jobs = [
            ReleasedJob(
                run.execution.tag, run.execution.job_id, uncount=run.leaving or not run.deaths
            )
            for run in runs
        ]
        try:
            self._leases[lane.name].release(jobs)
        except RedisError as exc:
            TROUBLE.note("releasing", exc, lane=lane.name)  # the leases expire and are reaped
        self._state.released(lane, [run.execution for run in runs])


def _measure(run: Run, now: float, state: WorkerState) -> None:
    """A job that was answered; it had one of the server's slots for a while."""
    lane, execution, slots = run.lane, run.execution, max(1, run.handler.most)
    seconds = now - run.began
    stats, generation = lane.stats, lane.stats.generation
    stats.stages.ran(1, 1 / slots, execution.cost, execution.cost, seconds)
    stats.version(execution.version or lane.spec.version).infer.observe(seconds)
    said = sum(choice.count for choice in run.answer.choices)
    generation.completion_tokens += run.answer.completion_tokens or said
    generation.prompt_tokens += run.answer.prompt_tokens
    if run.first_at:
        generation.first_token.observe(run.first_at - execution.arrived)
        if said > 1:
            generation.between.observe((now - run.first_at) / (said - 1))
    if execution.tenant:
        state.counts.tenants.used(execution.tenant, seconds / slots, 1, now)


def _judge(ended: Ended, retries: Retries) -> None:
    """Set what becomes of the job, by what its run raised."""
    run, error = ended
    execution = run.execution
    if execution.disposition is not None or isinstance(error, ServerIsAway):
        return
    if error is None:
        execution.output, execution.item = run.answer, None
        return
    if isinstance(error, asyncio.CancelledError):
        execution.disposition = "lost"
        return
    if isinstance(error, JobExpired):
        judge_time(execution, time.monotonic() - run.began)
        if execution.disposition is None:
            _past_deadline(run, error)
        return
    if isinstance(error, ServerFailed) and error.busy_seconds is not None and not execution.suspect:
        execution.disposition, execution.error = Hold(int(error.busy_seconds * 1000)), error
        return
    RAISED.note(run.lane.spec.name, "answer", error, job_id=ascii(execution.job_id))
    charge(execution, decide(error, 1, execution.attempt, retries), error)


def _past_deadline(run: Run, error: JobExpired) -> None:
    execution, answer = run.execution, run.answer
    if answer.request.options.on_deadline == "fail":
        execution.disposition, execution.error = "expired", error
        return
    run.cut_short()
    execution.output, execution.item, execution.deadline = answer, None, None

"""Tells what steps have said: tokens to text, entries of streams, results. A thread of its own.

The device's thread hands over each step's tokens (worker/generation/rounds.py) and goes on. All
that has gathered meanwhile is written at once, so that a Redis that is slow costs fewer, larger
writes; only when too many steps wait do their lanes wait too. A job's stream is written before its
result is published.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from common.errors import EncodeTimedOut
from worker.generation.endings import generated, said_job
from worker.generation.generation import Generation, Token
from worker.generation.rounds import Rounds
from worker.generation.wording import add_token, cut_short, open_texts
from worker.guard.calls import Call, Calls, Slot, stack_of
from worker.guard.raised import RAISED
from worker.jobs.execution import Execution
from worker.jobs.lease_calls import ReleasedJob
from worker.jobs.leases import LaneLeases
from worker.lanes.lane import Lane
from worker.lanes.patience import PAUSE_SECONDS, until_accepted
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.pipeline.finisher import Finisher

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Task:
    """What a thread is telling; another takes it over where one is abandoned."""

    tokens: deque[Token] = field(default_factory=deque)
    ended: list[Generation] = field(default_factory=list)
    touched: dict[Generation, None] = field(default_factory=dict)
    unsaid: dict[Generation, None] = field(default_factory=dict)
    """Those with something that is not in their streams yet."""
    current: Generation | None = None
    """Whose text is being made."""


@dataclass(eq=False, slots=True)
class _Voice:
    """One telling thread, as the watchdog knows it."""

    slot: Slot
    lock: threading.Lock = field(default_factory=threading.Lock)
    task: _Task = field(default_factory=_Task)
    abandoned: bool = False


class _Abandoned(Exception):
    """The calling thread was abandoned, and another one took its task over."""


class Teller:
    """One thread; every generation passes through it to its end."""

    def __init__(
        self,
        state: WorkerState,
        leases: Mapping[str, LaneLeases],
        finisher: Finisher,
        redis_health: RedisHealth,
        calls: Calls,
        *,
        stream_seconds: int,
        rounds: Rounds,
        pace_seconds: float,
    ) -> None:
        """leases use a connection of their own; pace_seconds is the least time from one write of
        what streams have said to the next, but for first words and ends.
        """
        self._state = state
        self._leases = leases
        self._finisher = finisher
        self._redis_health = redis_health
        self._calls = calls
        self._stream_seconds = stream_seconds
        self._rounds = rounds
        self._pace_seconds = pace_seconds
        self._say_at = 0.0
        """When the next write is due, steady time."""
        self._give_up_at: float | None = None
        self._voice = _Voice(calls.new_slot())
        self._thread = self._new_thread(self._voice)

    def start(self) -> None:
        """Start the telling thread."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Tell what there is, for at most this long."""
        self._give_up_at = time.monotonic() + seconds
        self._rounds.close()
        until = self._give_up_at + 1
        while (thread := self._thread).is_alive() and (left := until - time.monotonic()) > 0:
            thread.join(min(left, PAUSE_SECONDS))  # it may be replaced meanwhile

    # -- on the watchdog's -----------------------------------------------------

    def look(self, now: float) -> None:
        """Abandon a thread that one text has kept for too long."""
        voice = self._voice
        if call := self._calls.overdue(voice.slot, now):
            self._abandon(voice, call, self._calls.limits.of("text", call.spec))

    def _abandon(self, voice: _Voice, call: Call, limit: float) -> None:
        with voice.lock:
            generation = voice.task.current
            if voice.slot.call is not call or generation is None:
                return
            voice.abandoned = True
        job_id = ascii(generation.execution.job_id)
        stack = stack_of(voice.slot.thread)
        log.error("text_abandoned", lane=generation.lane.name, job_id=job_id, stack=stack)
        self._calls.abandon(voice.slot, call)
        generation.execution.fail(
            "encode", EncodeTimedOut(f"its text was not made within {limit:g} s")
        )
        self._voice = _Voice(self._calls.new_slot(), task=voice.task)
        self._thread = self._new_thread(self._voice)
        self._thread.start()

    # -- on its own ------------------------------------------------------------

    def _new_thread(self, voice: _Voice) -> threading.Thread:
        return threading.Thread(target=self._run, args=(voice,), name="teller", daemon=True)

    def _run(self, voice: _Voice) -> None:
        try:
            while voice.task.touched or voice.task.ended or self._gather(voice.task):
                try:
                    self._tell(voice)
                except _Abandoned:
                    raise
                except Exception:
                    log.exception("told_not_for_a_fault_of_ours")
                    self._lose(voice.task)
                voice.task = _Task(unsaid=voice.task.unsaid)
        except _Abandoned:
            return

    def _gather(self, task: _Task) -> bool:
        """Take all that waits; false once the worker stops and nothing does."""
        taken = self._rounds.take(self._say_at, anyway=bool(task.unsaid))
        for tokens, ended in taken:
            task.tokens.extend(tokens)
            task.ended.extend(ended)
        task.touched = dict.fromkeys([*(one.generation for one in task.tokens), *task.ended])
        if self._rounds.let_go():
            self._state.wake()
        return bool(taken or task.unsaid)

    def _tell(self, voice: _Voice) -> None:
        task = voice.task
        self._make_texts(voice, task)
        task.unsaid |= {one: None for one in task.touched if one.telling.deltas}
        done = [one for one in task.touched if not one.telling.submitted and _is_done(one, task)]
        if done or self._is_due(task):
            told, task.unsaid = task.unsaid, {}
            for lane, generations in _by_lane(told).items():
                self._say(lane, generations)
            self._say_at = time.monotonic() + self._pace_seconds
        for lane, generations in _by_lane(done).items():
            self._submit(lane, generations)

    def _is_due(self, task: _Task) -> bool:
        """Whether to write now. Nobody sees a difference between 50 updates a second and 500, and
        each costs Redis, the API and the reader as much as the next; first words are waited for.
        """
        if self._rounds.closed or time.monotonic() >= self._say_at:
            return True
        return not all(one.telling.entry for one in task.unsaid)

    def _make_texts(self, voice: _Voice, task: _Task) -> None:
        while task.tokens:
            token = task.tokens[0]
            self._word(voice, task, token.generation, token)
            task.tokens.popleft()
        for generation in task.ended:
            if not generation.telling.choices or generation.cut == "deadline":
                self._word(voice, task, generation, None)
        task.current = None

    def _word(
        self, voice: _Voice, task: _Task, generation: Generation, token: Token | None
    ) -> None:
        """Add a token's text; without one, make the texts of a job, and cut them where they end."""
        execution = generation.execution
        if execution.disposition is not None or generation.telling.submitted:
            return
        task.current = generation
        voice.slot.enter("text", generation.lane.spec, time.monotonic())
        error: BaseException | None = None
        try:
            open_texts(generation)
            if token is not None:
                add_token(generation, token)
            elif generation.cut == "deadline":
                cut_short(generation)
        except BaseException as exc:  # noqa: BLE001 - even an exit: nobody else would be told
            error = exc
        with voice.lock:
            if voice.abandoned:
                raise _Abandoned
            voice.slot.leave()
        if error is not None:
            RAISED.note(generation.lane.spec.name, "text", error, job_id=ascii(execution.job_id))
            execution.fail("encode", error)

    def _say(self, lane: Lane, generations: Sequence[Generation]) -> None:
        """Write an entry of each one's stream; who is fenced is lost."""
        generations = [one for one in generations if not _is_unwanted(one)]
        if not generations:
            return
        jobs = [said_job(one, self._stream_seconds) for one in generations]
        fenced = self._until_done(lane, lambda: self._leases[lane.name].say(jobs))
        for generation in generations:
            generation.telling.deltas = {}
        for position in fenced or ():
            execution = generations[position].execution
            if execution.disposition is None:
                execution.disposition = "lost"

    def _submit(self, lane: Lane, generations: Sequence[Generation]) -> None:
        """Hand these to the finisher, or back to the lane."""
        groups: dict[float, list[Execution]] = {}
        ended: list[Execution] = []
        released: list[Execution] = []
        for generation in generations:
            execution = generation.execution
            generation.telling.submitted = True
            if execution.disposition is not None:
                ended.append(execution)
            elif generation.cut == "release":
                released.append(execution)
            else:
                execution.output = generated(generation)
                groups.setdefault(generation.began, []).append(execution)
            execution.item = None
        now = time.monotonic()
        for began, together in groups.items():
            ran_ms = max(0.001, (now - began) * 1000) if began else 0.001
            self._finisher.submit_generated(lane, together, ran_ms)
        if ended:
            self._finisher.submit_ended(lane, ended)
        if released:
            self._release(lane, released)

    def _release(self, lane: Lane, executions: Sequence[Execution]) -> None:
        jobs = [ReleasedJob(one.tag, one.job_id, uncount=True) for one in executions]
        count = self._until_done(lane, lambda: self._leases[lane.name].release(jobs))
        self._state.released(lane, executions)
        log.info("generations_released", lane=lane.name, jobs=count)

    def _lose(self, task: _Task) -> None:
        """Let the leases of these lapse, as after a crash."""
        lost, task.unsaid = task.touched | task.unsaid, {}
        for generation in lost:
            execution = generation.execution
            execution.disposition = execution.disposition or "lost"
            if generation in task.ended and not generation.telling.submitted:
                generation.telling.submitted = True
                self._finisher.submit_ended(generation.lane, [execution])

    def _until_done(self, lane: Lane, transition: Callable[[], T]) -> T | None:
        """Repeat a transition until Redis accepts it; None where the worker stops first."""
        return until_accepted(
            *(transition, "telling", lane.name),
            give_up_at=lambda: self._give_up_at,
            answered=self._redis_health.answered,
        )


def _is_unwanted(generation: Generation) -> bool:
    return generation.execution.disposition in ("lost", "canceled", "expired")


def _is_done(generation: Generation, task: _Task) -> bool:
    """Whether it has ended: it has no rows, or needs none."""
    if generation in task.ended:
        return True
    return generation.execution.disposition is None and generation.telling.is_complete


def _by_lane(generations: Iterable[Generation]) -> dict[Lane, list[Generation]]:
    found: dict[Lane, list[Generation]] = {}
    for generation in generations:
        found.setdefault(generation.lane, []).append(generation)
    return found

"""Advances the rows of generators, on the device's thread.

A turn is one step while other lanes wait for the device, and more of them while none does. Between
two steps rows leave that have ended or whose job nobody wants any more, and parked ones go on.
Text, streams and results are the teller's, so that no step waits for Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf

import structlog

from common.errors import InvalidInput, PromptTooLong, text_of
from worker.generation.generation import Cut, Generation, generation_of
from worker.generation.measures import measure_step
from worker.generation.replay import Replay
from worker.generation.rounds import Rounds
from worker.generation.seating import Seating
from worker.guard.calls import Call, Calls, Slot
from worker.guard.raised import RAISED
from worker.jobs.execution import Execution, judge_time
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.rows import Rows
from worker.lanes.state import WorkerState
from worker.lanes.work import RunStep
from worker.models.generator import Advance, RowsFailed
from worker.pipeline.error_policy import Retries, decide, out_of_memory
from worker.pipeline.failed_batch import charge
from worker.pipeline.finisher import Finisher
from worker.pipeline.starting import Starting
from worker.transfer import is_lost

log = structlog.get_logger(__name__)

_BEHIND_PAUSE_SECONDS = 0.05


class Stepper:
    """Runs the steps of all generators of one worker."""

    def __init__(
        self,
        state: WorkerState,
        starting: Starting,
        rounds: Rounds,
        finisher: Finisher,
        device_time: DeviceTime,
        calls: Calls,
        *,
        may_go_on: Callable[[Lane, float], bool],
        on_device_lost: Callable[[str], None],
        on_stuck: Callable[[Slot, Call], None],
        retries: Retries,
        turn_seconds: float,
    ) -> None:
        """may_go_on says, under the lock, whether the next step may follow at once."""
        self._state = state
        self._starting = starting
        self._rounds = rounds
        self._finisher = finisher
        self._device_time = device_time
        self._calls = calls
        self._slot = calls.new_slot()
        self._may_go_on = may_go_on
        self._on_device_lost, self._on_stuck = on_device_lost, on_stuck
        self._retries = retries
        self._turn_seconds = turn_seconds
        self._seatings: dict[Rows, Seating] = {}
        """Those with work."""
        self.stop_at = inf
        """When a worker that stops gives the rest up, steady time."""

    def look(self, now: float) -> None:
        """Report a step that takes longer than its limit; the watchdog calls it."""
        if call := self._calls.overdue(self._slot, now):
            self._on_stuck(self._slot, call)

    def run(self, work: RunStep) -> None:
        """One turn of a lane; the runner calls it."""
        rows = work.step.rows
        assert rows is not None, "a step is some generator's"
        seating = self._seatings.setdefault(rows, Seating(rows, self._slot))
        try:
            self._join(seating, work.lane, work.step.joining)
            self._turn(seating, work.lane)
        except Exception:
            log.exception("steps_lost_to_a_fault_of_ours", lane=work.lane.name)
            self._abandon(seating)
        if not rows.has_work:
            del self._seatings[rows]
        if work.step.joining:
            self._tell_running()  # those that have no row do not run

    def end(self) -> None:
        """The worker stops: run what is on rows to its end or until `stop_at`, then let it go on
        elsewhere.
        """
        while (busy := list(self._seatings.values())) and time.monotonic() < self.stop_at:
            if self._rounds.is_behind:
                self._rounds.await_room(_BEHIND_PAUSE_SECONDS)
                continue
            for seating in busy:
                self._step(seating)
                if not seating.rows.has_work:
                    del self._seatings[seating.rows]
        for seating in self._seatings.values():
            for generation in [*seating.generations, *seating.parked]:
                self._leave(seating, generation, "release")
        self._tell_running()

    def _tell_running(self) -> None:
        self._state.set_on_rows(
            one for seating in self._seatings.values() for one in seating.executions
        )

    def _turn(self, seating: Seating, lane: Lane) -> None:
        until = time.monotonic() + self._turn_seconds
        known = None
        while True:
            self._step(seating)
            if known != (taken := (seating.executions, seating.rows.active)):
                known = taken
                self._tell_running()  # and there may be room, which the reserver waits for
            if not seating.rows.has_work:
                return
            if self._rounds.is_behind:
                self._rounds.hold(seating.rows)
                return
            now = time.monotonic()
            if now >= until:
                return
            with self._state.lock:
                if not self._may_go_on(lane, now):
                    return

    # -- who joins -----------------------------------------------------------

    def _join(self, seating: Seating, lane: Lane, joining: Sequence[Execution]) -> None:
        if joining:
            stages, free_since = lane.stats.stages, self._device_time.free_since
            self._device_time.took(stages.taken(joining, time.monotonic(), free_since))
        unwanted = self._starting.end_unwanted(lane, joining)
        for execution in joining:
            if execution.tag in unwanted:
                continue
            if execution.suspect:
                # A crash from here to its first token must not cost others their results.
                self._finisher.flush()
                if not self._starting.start_suspect(lane, execution):
                    continue
            execution.started = time.monotonic()
            generation = generation_of(lane, execution)
            if generation.has_ended:
                self._rounds.offer((), [generation])  # all was said; the result was not published
            elif (refused := _refusal(seating.rows, generation)) is not None:
                execution.fail("infer", refused)
                self._rounds.offer((), [generation])
            elif seating.parked or not seating.rows.has_room(
                generation.prompt.options.n, execution.cost
            ):
                seating.park(generation)
            else:
                self._admit(seating, generation)

    def _admit(self, seating: Seating, generation: Generation) -> None:
        rows, execution = seating.rows, generation.execution
        if execution.suspect and not generation.first_at:
            rows.proving = execution.tag
            rows.alone = execution.attempt >= self._retries.max_attempts
        try:
            seating.admit(generation)
        except BaseException as exc:  # noqa: BLE001 - even an exit, by a model, is judged below
            if self._is_lost(seating, exc):
                return
            rows.proving = b""
            if out_of_memory(exc) and rows.active:
                seating.park(generation, no_memory=True)
                return
            RAISED.note(rows.spec.name, "admit", exc)
            self._charge(seating, generation, exc)
            return
        if not generation.began:
            generation.began = time.monotonic()
            generation.lane.stats.generation.prompt_tokens += len(generation.prompt.tokens)

    def _resume_parked(self, seating: Seating) -> None:
        while (generation := seating.next_parked()) is not None:
            self._admit(seating, generation)
            if generation in seating.parked:
                return

    # -- a step --------------------------------------------------------------

    def _step(self, seating: Seating) -> None:
        """Let go of what is not wanted, take back what was parked, and advance all rows."""
        self._sweep(seating)
        self._resume_parked(seating)
        if not seating.generations:
            return
        began = time.monotonic()
        self._device_time.start(began)
        failed: RowsFailed | None = None
        try:
            advances = seating.step()
        except RowsFailed as exc:
            failed, advances = exc, exc.advances
        except BaseException as exc:  # noqa: BLE001 - even an exit, by a model, is judged below
            self._device_time.end(time.monotonic())
            if not self._is_lost(seating, exc):
                self._replay(seating, exc)
            return
        ended = time.monotonic()
        self._device_time.end(ended)
        self._stepped(seating, advances, began, ended)
        if failed is not None:
            self._charge_rows(seating, failed)

    def _stepped(
        self, seating: Seating, advances: Sequence[Advance], began: float, ended: float
    ) -> None:
        rows, before = seating.rows, list(seating.generations)
        since = rows.stepped_at
        rows.stepped(ended)
        active = rows.active
        tokens = seating.owned(advances, ended)
        done = [one for one in before if one.has_ended]
        measure_step(before, tokens, done, active, rows.slots, began, ended, since, self._state)
        self._rounds.offer(tokens, done)

    def _charge_rows(self, seating: Seating, failed: RowsFailed) -> None:
        RAISED.note(seating.rows.spec.name, "step", failed, jobs=len(failed.reasons))
        for row, reason in failed.reasons.items():
            generation = seating.owner(row)
            if generation is not None:
                self._charge(seating, generation, RowsFailed({row: reason}))

    def _replay(self, seating: Seating, error: BaseException) -> None:
        """A step raised: every job alone, from what it has said; who raises then is at fault."""
        RAISED.note(seating.rows.spec.name, "step", error, jobs=len(seating.generations))
        replay = Replay(seating, self._device_time)
        for generation, advances, raised in replay.run():
            generation.lane.stats.generation.replays += 1
            if raised is not None and self._is_lost(seating, raised):
                return
            tokens = seating.owned(advances, time.monotonic())
            self._rounds.offer(tokens, [generation] if generation.has_ended else [])
            if raised is not None:
                self._charge(seating, generation, raised)
        rows = seating.rows
        if rows.faulted(of_size=out_of_memory(error), found=replay.culprits > 0):
            log.warning("rows_lowered", model=rows.spec.name, rows=rows.cap)

    def _is_lost(self, seating: Seating, error: BaseException) -> bool:
        """Whether the device is; then its jobs stay in hand, and are released at the end."""
        if not is_lost(error):
            return False
        name = seating.rows.spec.name
        log.error("device_lost", model=name, size=len(seating.generations), error=text_of(error))
        self._forget(seating)
        self._on_device_lost(name)
        return True

    def _forget(self, seating: Seating) -> None:
        seating.generations.clear()
        seating.parked.clear()
        seating.rows.active = seating.rows.parked = 0
        seating.rows.alone = True  # nobody joins any more

    # -- who leaves ----------------------------------------------------------

    def _charge(self, seating: Seating, generation: Generation, error: BaseException) -> None:
        execution = generation.execution
        if not generation.telling.submitted:
            charge(execution, decide(error, 1, execution.attempt, self._retries), error)
        self._leave(seating, generation)

    def _sweep(self, seating: Seating) -> None:
        now = time.monotonic()
        for generation in [*seating.generations, *seating.parked]:
            telling = generation.telling
            if telling.submitted:
                self._leave(seating, generation)
                continue
            for choice in telling.stopped - generation.ended:
                seating.drop(generation, choice)
            if generation.has_ended:
                self._rounds.offer((), [generation])
            elif (cut := self._ending(generation, now)) is not None:
                self._leave(seating, generation, cut)

    def _ending(self, generation: Generation, now: float) -> Cut | None:
        """How it must end now; None where it goes on."""
        execution = generation.execution
        if execution.disposition is None and self._starting.is_revoked(execution):
            execution.disposition = "canceled"
        if execution.time_limits is not None:
            judge_time(execution, now - (generation.began or now))
        if execution.disposition is not None:
            return ""
        deadline = execution.deadline
        if deadline is None or deadline > now + generation.lane.clock_ahead:
            return None
        if generation.prompt.options.on_deadline == "partial":
            return "deadline"
        execution.disposition = "expired"
        return ""

    def _leave(self, seating: Seating, generation: Generation, cut: Cut = "") -> None:
        """Drop its rows and tell the teller, which ends the job."""
        generation.cut = cut
        if generation in seating.parked:
            seating.unpark(generation)
        else:
            seating.remove(generation)
        if (lost_at := generation.execution.lost_at_step) >= 0:
            generation.lane.stats.generation.freed.observe(max(0, seating.rows.steps - lost_at))
        self._rounds.offer((), [generation])

    def _abandon(self, seating: Seating) -> None:
        for generation in [*seating.generations, *seating.parked]:
            generation.execution.disposition = generation.execution.disposition or "lost"
            self._leave(seating, generation)


def _refusal(rows: Rows, generation: Generation) -> InvalidInput | None:
    """Why it can never be admitted here; None where it can."""
    choices, tokens = generation.prompt.options.n, generation.execution.cost
    if choices > rows.slots:
        return InvalidInput(f"params.n: {choices} answers at once; this model gives {rows.slots}")
    if tokens > rows.budget:
        return PromptTooLong(
            f"the prompt and its answers may come to {tokens:.0f} tokens; this model's memory "
            f"holds {rows.budget:.0f}: shorten the prompt or lower max_tokens"
        )
    return None

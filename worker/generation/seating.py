"""Which rows of one generator are whose; used by the device's thread alone.

It calls the generator's verbs under the watchdog's eye, and knows nothing of lanes, of Redis or of
what a fault means for a job.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from common.errors import WrongOutputs
from worker.generation.generation import Generation, Token
from worker.guard.calls import Slot
from worker.guard.limits import Verb
from worker.guard.raised import RAISED
from worker.jobs.execution import Execution
from worker.lanes.rows import Rows
from worker.models.generator import Advance


class Seating:
    """The rows of one generator, and the jobs that were on some and wait to go on."""

    def __init__(self, rows: Rows, slot: Slot) -> None:
        """slot is the device thread's."""
        self.rows = rows
        self.generations: list[Generation] = []
        """Those on rows, in the order of their admission."""
        self.parked: deque[Generation] = deque()
        self._owners: dict[int, tuple[Generation, int]] = {}
        self._executions: list[Execution] | None = None
        self._slot = slot
        self._no_memory_at = 0
        """How many rows were taken when the device last had no memory for another; 0 is never."""

    @property
    def executions(self) -> list[Execution]:
        """The jobs on rows; made anew when they change."""
        if self._executions is None:
            self._executions = [one.execution for one in self.generations]
        return self._executions

    # -- admission -----------------------------------------------------------

    def admit(self, generation: Generation) -> None:
        """Give it rows, to go on from what it has said. Raises what the generator raises."""
        prompt, handler = generation.prompt, generation.handler
        prompt.said = {choice: list(said) for choice, said in generation.said.items() if said}
        with self._in("admit", [generation.execution]):
            found = list(handler.admit(prompt))
        choices = prompt.options.n
        self.rows.took(len(found), generation.execution.cost)
        generation.rows = dict(enumerate(found))
        self.generations.append(generation)
        self._executions = None
        for choice, row in enumerate(found):
            self._owners[row] = (generation, choice)
        if len(found) != choices:
            self.remove(generation)
            raise WrongOutputs(
                f"`admit` returned {len(found)} rows for {choices} choices; it must return one each"
            )
        for choice in generation.ended & generation.rows.keys():
            self.drop(generation, choice)

    def park(self, generation: Generation, *, no_memory: bool = False) -> None:
        """Have it wait for room; no_memory: until rows that are taken now are dropped."""
        self.parked.append(generation)
        self.rows.parked = len(self.parked)
        if no_memory:
            self._no_memory_at = self.rows.active

    def next_parked(self) -> Generation | None:
        """The first that waits, where it has room now."""
        if not self.parked or (self._no_memory_at and self.rows.active >= self._no_memory_at):
            return None
        first = self.parked[0]
        alone = not self.rows.active
        if not alone and not self.rows.has_room(first.prompt.options.n, first.execution.cost):
            return None
        self._no_memory_at = 0
        self.unpark(first)
        return first

    def unpark(self, generation: Generation) -> None:
        """It waits no more."""
        self.parked.remove(generation)
        self.rows.parked = len(self.parked)

    # -- steps ---------------------------------------------------------------

    def step(self) -> Sequence[Advance]:
        """Advance all rows; raises what the generator raises."""
        with self._in("step", self.executions):
            return self.rows.handler.step()

    def owned(self, advances: Sequence[Advance], now: float) -> list[Token]:
        """Whose these are. Rows that have ended are dropped, and jobs with none left removed."""
        tokens = []
        for row, token, finish, logprob, top in advances:
            owner = self._owners.get(row)
            if owner is None:
                continue
            generation, choice = owner
            said = generation.said[choice]
            said.append(token)
            if finish is None and len(said) >= generation.prompt.options.max_tokens:
                finish = "length"
            if not generation.first_at:
                generation.first_at = now
                self._prove(generation)
            tokens.append(Token(generation, choice, token, finish, logprob, top))
            if finish is not None:
                self.drop(generation, choice)
        return tokens

    def _prove(self, generation: Generation) -> None:
        """A suspect has its first token: others may join it."""
        if self.rows.proving == generation.execution.tag:
            self.rows.proving = b""

    def owner(self, row: int) -> Generation | None:
        """Whose row this is."""
        owner = self._owners.get(row)
        return owner[0] if owner else None

    # -- leaving -------------------------------------------------------------

    def drop(self, generation: Generation, choice: int) -> None:
        """End one choice: its row is free; a job without rows leaves."""
        generation.ended.add(choice)
        row = generation.rows.pop(choice, None)
        if row is not None:
            self._free(generation, row)
        if generation.has_ended:
            self._forget(generation)

    def remove(self, generation: Generation) -> None:
        """Free all its rows; its choices may go on later."""
        for row in generation.rows.values():
            self._free(generation, row)
        generation.rows = {}
        self._forget(generation)

    def _free(self, generation: Generation, row: int) -> None:
        self._owners.pop(row, None)
        try:
            with self._in("drop", [generation.execution]):
                self.rows.handler.drop(row)
        except BaseException as exc:  # noqa: BLE001 - whatever it raises, the row is not ours
            RAISED.note(self.rows.spec.name, "drop", exc, row=row)
        self.rows.gave_back(1, 0.0)

    def _forget(self, generation: Generation) -> None:
        if generation in self.generations:
            self.generations.remove(generation)
            self._executions = None
            self.rows.gave_back(0, generation.execution.cost)
        self._prove(generation)
        if not self.rows.active:
            self.rows.alone = False

    @contextmanager
    def _in(self, verb: Verb, about: Sequence[Execution]) -> Iterator[None]:
        self._slot.enter(verb, self.rows.spec, time.monotonic(), about)
        try:
            yield
        finally:
            self._slot.leave()

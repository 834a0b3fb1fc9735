"""Which lane the device serves next.

Pure on purpose, as the batcher is: a clock reading is passed in.

The rule. The lane whose oldest job has waited longest goes first, by weight
and less what it costs to switch to it. A lane that has the device keeps it
while full batches are ready, for so many batches or so long, whichever ends
first; so at saturation a switch is paid for by a whole turn, and nobody
waits longer than the others' turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A lane that has something to run."""

    name: str
    waited: float
    """Seconds since its oldest job arrived here, or was known to wait for a load."""
    weight: float = 1.0
    full: bool = False
    """Whether a batch is ready that could not be larger."""
    switch_seconds: float = 0.0
    """What going there costs: a load, or colder caches."""


class Turns:
    """Remembers who has the device, and since when."""

    def __init__(self, batches_a_turn: int, seconds_a_turn: float) -> None:
        self._batches_a_turn = batches_a_turn
        self._seconds_a_turn = seconds_a_turn
        self._batches = 0
        self._began = 0.0
        self.current: str | None = None
        self.switches = 0

    def order(self, candidates: Sequence[Candidate], now: float) -> list[str]:
        """The lanes to try, best first. Tell `took` which one it was."""
        if len(candidates) == 1:
            return [candidates[0].name]
        keeps = self._batches < self._batches_a_turn and now - self._began < self._seconds_a_turn

        def merit(one: Candidate) -> tuple[bool, float]:
            if one.name == self.current:
                return one.full and keeps, one.waited * one.weight
            return False, (one.waited - one.switch_seconds) * one.weight

        return [one.name for one in sorted(candidates, key=merit, reverse=True)]

    def took(self, name: str, now: float) -> bool:
        """A batch of this lane gets the device; returns whether that is a switch."""
        if name == self.current:
            self._batches += 1
            return False
        self.current, self._batches, self._began = name, 1, now
        self.switches += 1
        return True

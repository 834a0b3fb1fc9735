"""Decides which lane the device serves next.

Pure on purpose, as the batcher is: a clock reading is passed in.

The rule: the lane whose oldest job has waited longest goes first, by weight and less the
cost of switching to it. The current lane keeps the device while full batches are ready, for
a number of batches or a time, whichever ends first; so at saturation the cost of a switch is
spread over a whole turn, and no lane waits longer than the turns of the others.

While a lane that works in steps is among them, a turn is one step or one batch, and a lane's wait
counts from its last turn at the earliest: else a deep lane of batches would always have waited
longer than answers that wait for their next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A lane that has work."""

    name: str
    waited: float
    """Seconds since its oldest job arrived here, or since work for an unloaded model was found."""
    weight: float = 1.0
    full: bool = False
    """Whether a batch of the maximum size is ready."""
    switch_seconds: float = 0.0
    """The cost of switching to it: a load, or colder caches."""
    steps: bool = False
    """Whether its work is steps."""


class Turns:
    """Tracks which lane has the device, and since when."""

    def __init__(self, batches_a_turn: int, seconds_a_turn: float) -> None:
        self._batches_a_turn = batches_a_turn
        self._seconds_a_turn = seconds_a_turn
        self._batches = 0
        self._began = 0.0
        self._last: dict[str, float] = {}
        """When each lane last had the device."""
        self.current: str | None = None
        self.switches = 0

    def order(self, candidates: Sequence[Candidate], now: float) -> list[str]:
        """The lanes to try, best first. Call `took` with the one that is served."""
        if len(candidates) == 1:
            return [candidates[0].name]
        if any(one.steps for one in candidates):
            return self._alternating(candidates, now)
        keeps = self._batches < self._batches_a_turn and now - self._began < self._seconds_a_turn

        def merit(one: Candidate) -> tuple[bool, float]:
            if one.name == self.current:
                return one.full and keeps, one.waited * one.weight
            return False, (one.waited - one.switch_seconds) * one.weight

        return [one.name for one in sorted(candidates, key=merit, reverse=True)]

    def _alternating(self, candidates: Sequence[Candidate], now: float) -> list[str]:
        def merit(one: Candidate) -> float:
            if one.name == self.current:
                return 0.0
            since = now - self._last.get(one.name, 0.0)
            return (min(one.waited, since) - one.switch_seconds) * one.weight

        return [one.name for one in sorted(candidates, key=merit, reverse=True)]

    def took(self, name: str, now: float) -> bool:
        """Record that a batch of this lane gets the device; returns whether that is a switch."""
        self._last[name] = now
        if name == self.current:
            self._batches += 1
            return False
        self.current, self._batches, self._began = name, 1, now
        self.switches += 1
        return True

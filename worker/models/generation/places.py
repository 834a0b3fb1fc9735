"""Which row of the cache holds what: live texts, and ended ones whose beginnings serve again.

A place keeps the tokens whose keys and values lie there, also after its text has ended, until the
place is needed. So a prompt that begins as another did, with the same system prompt or the earlier
turns of a conversation, has that part copied instead of computed. No memory is taken for this:
there are as many places as slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ("Place", "Places", "common_length")


@dataclass(eq=False, slots=True)
class Place:
    """One row of the cache."""

    number: int
    live: bool = False
    tokens: list[int] = field(default_factory=list)
    """What lies in its columns, from the first on."""
    computed: int = 0
    """How many of them were read in whole chunks, and have the same bits whenever they are."""
    used: int = 0
    """When it was last filled or copied from; grows."""


class Places:
    """All rows of a cache; their order is that of the cache."""

    def __init__(self, count: int) -> None:
        self._all = [Place(number) for number in range(count)]
        self._clock = 0

    def __getitem__(self, number: int) -> Place:
        return self._all[number]

    def free(self, place: Place) -> None:
        """Its text has ended; what lies there serves until it is needed."""
        place.live = False
        self.touch(place)

    def take(self, tokens: Sequence[int], at_least: int) -> Place | None:
        """A free place for this prompt: one of which all goes before it, as an earlier turn does,
        else the one that was used longest ago. at_least: tokens for which that counts."""
        free = [place for place in self._all if not place.live]
        if not free:
            return None
        best = max(free, key=lambda place: common_length(place.tokens, tokens))
        if not at_least <= common_length(best.tokens, tokens) == len(best.tokens):
            best = min(free, key=lambda place: place.used)
        best.live = True
        self.touch(best)
        return best

    def source(self, tokens: Sequence[int], own: Place, *, whole: bool) -> tuple[Place, int]:
        """The place that begins most like these tokens, and how many they have in common.

        own: preferred, as nothing need be copied. whole: of what was read in whole chunks only.
        """
        best, most = own, -1
        for place in (own, *self._all):
            common = common_length(place.tokens, tokens)
            if whole:
                common = min(common, place.computed)
            if common > most:
                best, most = place, common
        return best, most

    def touch(self, place: Place) -> None:
        """It was used now."""
        self._clock += 1
        place.used = self._clock

    def swap(self, one: int, other: int) -> None:
        """Their rows of the cache have been exchanged."""
        first, second = self._all[one], self._all[other]
        self._all[one], self._all[other] = second, first
        first.number, second.number = other, one


def common_length(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two texts begin with alike; by halves, as slices are compared in C."""
    low, high = 0, min(len(some), len(others))
    if some[:high] == others[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if some[low:middle] == others[low:middle]:
            low = middle
        else:
            high = middle
    return low

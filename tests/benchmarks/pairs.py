"""The statistics of a comparison; pure, so that they can be tested without a machine.

What counts is the median of the pairwise ratios: the turns of a pair are a
second apart, so what the machine does otherwise falls on both and cancels,
and a median ignores the few pairs where it did not.

How far that median strays by itself is measured, not assumed: as many pairs
of the base against itself, in two sets of processes. Its spread is the
bootstrap 90 % interval of the median of those ratios, and of that interval
the end further from 1. So it holds the scatter of pairs and also a lasting
difference between two sets of processes of the same code (hash seeds, memory
layout), though of the latter only one draw. It is a 90 % interval for each
role by itself: of nine roles of unchanged code one may now and then come out
over the bound. Run it again before believing one that is just over.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_BOUND = 0.02
"""Less than this is not worth acting on, however still the machine is."""
_RESAMPLES = 4_000
_TAIL = 0.05
_SEED = 12

Pair = tuple[float, float]
"""What the same work cost the base, and what it cost the other, in us a job."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One role in one benchmark: what changed, and how far that can be trusted."""

    benchmark: str
    role: str
    base_us: float
    head_us: float
    ratio: float
    """Median of head / base over the pairs."""
    spread: float
    """Of the median of as many pairs of the base against itself."""

    @property
    def bound(self) -> float:
        """How far from 1 the ratio may be without meaning anything."""
        return max(LEAST_BOUND, self.spread)

    @property
    def over(self) -> bool:
        """Whether the head costs more than the bound allows."""
        return self.ratio > 1 + self.bound

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.over:
            return "MORE"
        return "less" if self.ratio < 1 - self.bound else "same"


def judge(
    benchmark: str, role: str, against_itself: Sequence[Pair], pairs: Sequence[Pair]
) -> Finding:
    """The finding of one role, from its pairs of either kind."""
    return Finding(
        benchmark,
        role,
        base_us=statistics.median(base for base, _ in pairs),
        head_us=statistics.median(head for _, head in pairs),
        ratio=statistics.median(ratios(pairs)),
        spread=spread(ratios(against_itself)),
    )


def ratios(pairs: Sequence[Pair]) -> list[float]:
    """The other's cost over the base's, pair by pair."""
    return [other / base for base, other in pairs]


def spread(found: Sequence[float]) -> float:
    """How far from 1 the median of as many such ratios may lie: 90 % bootstrap interval."""
    chance = random.Random(_SEED)  # the same figures give the same verdict
    medians = sorted(
        statistics.median(chance.choices(found, k=len(found))) for _ in range(_RESAMPLES)
    )
    low = medians[int(_TAIL * _RESAMPLES)]
    high = medians[int((1 - _TAIL) * _RESAMPLES) - 1]
    return max(abs(low - 1), abs(high - 1))

"""Learn how long batches take, by their padded cost."""

from __future__ import annotations

from math import inf


class BatchTime:
    """What a batch takes: base + rate x padded cost, by least squares that forget.

    Weighted by 1/cost, since the noise of a timing grows with its length.
    """

    _KEEP = 0.97
    _LEAST = 8
    _OUTLIER = 4.0
    """A reading counts for no more than this times what was expected."""

    def __init__(self) -> None:
        self._seen = -1  # The first batch warms caches and is not counted.
        self._w = self._wx = self._wxx = self._wy = self._wxy = 0.0
        self._base = self._rate = 0.0
        self.typical = 0.0
        """What a batch took of late, in seconds; 0 while too few were seen."""
        self.overhead: float | None = None
        """What a batch costs before its first item, in the unit of cost; None while unknown."""

    def observe(self, cost: float, seconds: float) -> None:
        """Take one reading: a batch of this padded cost took so long."""
        self._seen += 1
        if self._seen == 0:
            return
        if self.typical:
            seconds = min(seconds, self._OUTLIER * self.seconds(cost))
        keep, weight = self._KEEP, 1 / max(cost, 1.0)
        self._w = keep * self._w + weight
        self._wx = keep * self._wx + weight * cost
        self._wxx = keep * self._wxx + weight * cost * cost
        self._wy = keep * self._wy + weight * seconds
        self._wxy = keep * self._wxy + weight * cost * seconds
        if self._seen >= self._LEAST:
            self._solve()
            self.typical = self._wy / self._w

    def seconds(self, cost: float) -> float:
        """What a batch of this padded cost should take; 0 while too few were seen."""
        return self._base + self._rate * cost

    def affordable(self, seconds: float) -> float:
        """The padded cost that should take no longer than this; negative for none."""
        if seconds < self._base:
            return -1.0
        return (seconds - self._base) / self._rate if self._rate else inf

    def _solve(self) -> None:
        spread = self._w * self._wxx - self._wx * self._wx
        if spread <= 1e-3 * self._w * self._wxx:  # All of one cost: nothing tells base from rate.
            self._base, self._rate, self.overhead = 0.0, self._wxy / (self._wxx or 1.0), None
            return
        self._rate = max(0.0, (self._w * self._wxy - self._wx * self._wy) / spread)
        self._base = (self._wy - self._rate * self._wx) / self._w
        if self._base < 0:
            self._base, self._rate = 0.0, self._wxy / self._wxx
        self.overhead = self._base / self._rate if self._rate else inf

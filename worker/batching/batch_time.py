"""Learns how long batches take, by their padded cost."""

from __future__ import annotations

from math import inf


class BatchTime:
    """The time of a batch as base + rate x padded cost, by least squares with decaying weights.

    Weighted by 1/cost, because the noise of a measurement grows with its length.
    """

    _KEEP = 0.97
    _LEAST = 8
    _OUTLIER = 4.0
    """A measurement is capped at this many times the expected time."""

    def __init__(self) -> None:
        self._seen = -1  # the first batch warms caches and is not counted
        self._w = self._wx = self._wxx = self._wy = self._wxy = 0.0
        self._base = self._rate = 0.0
        self.typical = 0.0
        """The recent average time of a batch in seconds; 0 while too few were measured."""
        self.overhead: float | None = None
        """The fixed cost of a batch, in the unit of cost; None while unknown."""

    def observe(self, cost: float, seconds: float) -> None:
        """Record how long a batch of this padded cost took."""
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
        """The expected time of a batch of this padded cost; 0 while too few were measured."""
        return self._base + self._rate * cost

    def affordable(self, seconds: float) -> float:
        """The largest padded cost expected to take no longer than this; negative where none is."""
        if seconds < self._base:
            return -1.0
        return (seconds - self._base) / self._rate if self._rate else inf

    def _solve(self) -> None:
        spread = self._w * self._wxx - self._wx * self._wx
        if spread <= 1e-3 * self._w * self._wxx:  # all of one cost: base and rate are inseparable
            self._base, self._rate, self.overhead = 0.0, self._wxy / (self._wxx or 1.0), None
            return
        self._rate = max(0.0, (self._w * self._wxy - self._wx * self._wy) / spread)
        self._base = (self._wy - self._rate * self._wx) / self._w
        if self._base < 0:
            self._base, self._rate = 0.0, self._wxy / self._wxx
        self.overhead = self._base / self._rate if self._rate else inf

"""A histogram that one thread writes, as cheaply as Python can: no lock, no labels."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """Counts by bucket, and the sum; any thread may read, one observation late."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        """edges are the upper edges of the buckets, ascending; one more bucket has none."""
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count this value so many times."""
        self.counts[bisect_left(self.edges, value)] += times
        self.total += value * times

    def add(self, other: Histogram) -> None:
        """Add another one with the same edges."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

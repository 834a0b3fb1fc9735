"""Counts what becomes of jobs on arrival, for the metrics."""

from __future__ import annotations

from collections import Counter


class JobCounts:
    """Jobs by lane. Written by the event loop; refusals are counted where they are decided."""

    __slots__ = ("hits", "queued", "replayed")

    def __init__(self) -> None:
        self.queued: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.replayed: Counter[str] = Counter()

"""The arrival and decoding times of jobs that were decoded together.

One object for a whole chunk, so that measuring costs a few clock readings a batch.
"""

from __future__ import annotations

from typing import Protocol


class Passage:
    """When the jobs of a chunk arrived, and when they were decoded."""

    __slots__ = ("arrived", "decoded", "each")

    def __init__(self, arrived: float, began: float, decoded: float, size: int) -> None:
        self.arrived = arrived
        self.decoded = decoded
        self.each = (decoded - began) / size
        """Decoding seconds per job."""


class MeasuredJob(Protocol):
    """The fields of an execution that the stages read."""

    created_ms: int
    attempt: int
    passage: Passage | None

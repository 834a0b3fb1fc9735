"""When jobs that were reserved together came in and were decoded.

One object for all of them, so that measuring costs a few clock readings a batch.
"""

from __future__ import annotations

from typing import Protocol


class Passage:
    """Who was reserved and decoded together: when they came in, and were decoded."""

    __slots__ = ("arrived", "decoded", "each")

    def __init__(self, arrived: float, began: float, decoded: float, size: int) -> None:
        self.arrived = arrived
        self.decoded = decoded
        self.each = (decoded - began) / size
        """Seconds that one of them took to decode."""


class MeasuredJob(Protocol):
    """What is counted: a job on its way."""

    created_ms: int
    attempt: int
    passage: Passage | None

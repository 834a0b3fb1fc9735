"""Recent measurements of a lane, for scheduling decisions and for reports."""

from __future__ import annotations

from worker.lanes.stages import LaneStages

_WEIGHT = 4
"""A new measurement counts as a quarter of the average."""


class LaneStats:
    """Averages and counts of one lane.

    Each field has one writer, named with it, and needs no lock: a reader may see the value of
    one batch ago. `decode_seconds` has several writers, the decode threads; any of their last
    values is good enough.
    """

    def __init__(self) -> None:
        self.stages = LaneStages()
        self.sizes: dict[int, int] = {}
        """Number of batches by batch size. Written by the device thread."""
        self.decode_seconds = 1.0
        """The last time to decode one input. Written by the decode threads."""
        self.reserve_seconds = 0.0
        """From requesting a batch until it is parsed. Written by the reserver."""
        self.run_seconds = 0.0
        """How long a batch occupies the device. Written by the device thread."""

    def reserved(self, seconds: float) -> None:
        """Average in the time to reserve and parse a batch."""
        self.reserve_seconds += (seconds - self.reserve_seconds) / _WEIGHT

    def ran(self, seconds: float) -> None:
        """Average in the time that a batch occupied the device, overheads included."""
        self.run_seconds += (seconds - self.run_seconds) / _WEIGHT

    def count(self, size: int) -> None:
        """Count a batch of this size."""
        self.sizes[size] = self.sizes.get(size, 0) + 1

"""What a lane's work took of late, for who decides and for who looks."""

from __future__ import annotations

from worker.lanes.stages import LaneStages

_WEIGHT = 4
"""A new measurement counts as a quarter of the average."""


class LaneStats:
    """Averages and counts of one lane.

    Each field has one writer, named with it, and needs no lock: who reads it may be late by a
    batch. `decode_seconds` has several, the decode threads; any of their last values will do.
    """

    def __init__(self) -> None:
        self.stages = LaneStages()
        self.sizes: dict[int, int] = {}
        """Batches by how many jobs they had. Written by the device thread."""
        self.decode_seconds = 1.0
        """What decoding one input last took. Written by the decode threads."""
        self.reserve_seconds = 0.0
        """From asking for a batch until it is parsed. Written by the reserver."""
        self.run_seconds = 0.0
        """How long a batch has the device. Written by the device thread."""

    def reserved(self, seconds: float) -> None:
        """A batch was reserved and parsed in this time."""
        self.reserve_seconds += (seconds - self.reserve_seconds) / _WEIGHT

    def ran(self, seconds: float) -> None:
        """A batch had the device for so long, with all that belongs to it."""
        self.run_seconds += (seconds - self.run_seconds) / _WEIGHT

    def count(self, size: int) -> None:
        """A batch of so many jobs went through."""
        self.sizes[size] = self.sizes.get(size, 0) + 1

"""Recent measurements of a lane, for scheduling decisions and for reports."""

from __future__ import annotations

from common.metrics.histogram import Histogram
from worker.lanes.generation_stats import GenerationStats
from worker.lanes.shadow import ShadowStats
from worker.lanes.stages import LaneStages

_WEIGHT = 4
"""A new measurement counts as a quarter of the average."""
INFER_EDGES = (0.01, 0.1, 1.0, 10.0)
"""Upper edges of the buckets of a batch's time on the device, in seconds."""


CONFIDENCE_EDGES = (0.25, 0.5, 0.75, 0.9, 0.99)
"""Upper edges of the buckets of a classifier's first score."""


class VersionStats:
    """What one version of the lane's model has done."""

    __slots__ = ("confidence", "failed", "infer", "succeeded")

    def __init__(self) -> None:
        self.infer = Histogram(INFER_EDGES)
        """Seconds of a batch on the device. Written by the device thread."""
        self.succeeded = 0
        """Jobs with a result. Written by the finisher, as `failed`."""
        self.failed = 0
        self.confidence: Histogram | None = None
        """First scores, of a classifier with results. Written by the finisher."""

    def was_sure(self, score: float) -> None:
        """Count the first score of a result."""
        if self.confidence is None:
            self.confidence = Histogram(CONFIDENCE_EDGES)
        self.confidence.observe(score)


class LaneStats:
    """Averages and counts of one lane.

    Each field has one writer, named with it, and needs no lock: a reader may see the value of
    one batch ago. `decode_seconds` has several writers, the decode threads; any of their last
    values is good enough.
    """

    def __init__(self) -> None:
        self.stages = LaneStages()
        self.generation = GenerationStats()
        self.sizes: dict[int, int] = {}
        """Number of batches by batch size. Written by the device thread."""
        self.versions: dict[str, VersionStats] = {}
        """By version of the model: an alias may be moved."""
        self.shadows: dict[str, ShadowStats] = {}
        """By the shadow's name."""
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

    def version(self, version: str) -> VersionStats:
        """What this version of the model has done; on any thread."""
        found = self.versions.get(version)
        return found or self.versions.setdefault(version, VersionStats())

    def shadow(self, model: str) -> ShadowStats:
        """What this shadow has done."""
        return self.shadows.setdefault(model, ShadowStats())

    def count(self, size: int) -> None:
        """Count a batch of this size."""
        self.sizes[size] = self.sizes.get(size, 0) + 1

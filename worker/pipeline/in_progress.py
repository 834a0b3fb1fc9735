"""A batch that the device runs while its thread prepares the next."""

from __future__ import annotations

from dataclasses import dataclass

from worker.batching.batcher import Batch
from worker.jobs.execution import Execution
from worker.lanes.lane import Lane
from worker.pipeline.failed_batch import Split
from worker.transfer import Later

Runs = list[list[Execution]]
"""One list for each input that runs: the jobs that share its output."""


@dataclass(frozen=True, slots=True)
class InProgress:
    """A batch on an asynchronous device, and what becomes of it."""

    lane: Lane
    batch: Batch[Execution]
    runs: Runs
    later: Later
    began: float
    split: Split | None
    """Set where this batch is part of one that raised."""

    @property
    def is_done(self) -> bool:
        """Whether the device has finished it. A failure counts: `wait` raises it to be handled."""
        try:
            return bool(self.later.done())
        except BaseException:  # noqa: BLE001 - whatever a driver or a model raises
            return True

"""The kinds of work that the scheduler returns to the device thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.batching.batcher import Batch
from worker.jobs.execution import Execution
from worker.lanes.device_time import Idle
from worker.lanes.lane import Lane
from worker.lanes.step import Step


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Run one batch once."""

    lane: Lane
    batch: Batch[Execution]


@dataclass(frozen=True, slots=True)
class RunStep:
    """Advance all jobs of a lane on the device by one step; they stay there until they end.

    For lanes whose work has no length known beforehand, such as text generation. Such a lane
    takes turns with the others; a step counts as a batch.
    """

    lane: Lane
    step: Step


@dataclass(frozen=True, slots=True)
class DeviceTask:
    """Run a function on the device between batches: warm up a model, or unload one; or a shadow,
    while no job is known to wait.
    """

    run: Callable[[], object]
    counts_as: Idle = "loading"


@dataclass(frozen=True, slots=True)
class Wait:
    """No work, for this reason; ask again after a notification, or after this time."""

    cause: Idle
    seconds: float | None
    """None waits for a notification only."""


Work = RunBatch | RunStep | DeviceTask | Wait

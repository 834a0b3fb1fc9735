"""What the scheduler tells the device thread to do next."""

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
    """Run these together, once."""

    lane: Lane
    batch: Batch[Execution]


@dataclass(frozen=True, slots=True)
class RunStep:
    """Advance by one step all that the lane has on the device; they stay there until they end.

    For lanes whose work has no length known beforehand, as that of text generation. Such a
    lane gets turns among the others, a step counting as a batch.
    """

    lane: Lane
    step: Step


@dataclass(frozen=True, slots=True)
class DeviceTask:
    """Do this on the device between batches: warm a model up, or unload one."""

    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to do, for this reason; look again when told of a change, or then."""

    cause: Idle
    seconds: float | None
    """None is until told."""


Work = RunBatch | RunStep | DeviceTask | Wait

"""The unit of work of lanes whose jobs stay on the device across turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.jobs.execution import Execution
from worker.lanes.rows import Rows


@dataclass(frozen=True, slots=True)
class Step:
    """One step of all jobs of a lane on the device, with the jobs that join at this step."""

    joining: Sequence[Execution] = ()
    rows: Rows | None = None
    """The generator's that is advanced."""

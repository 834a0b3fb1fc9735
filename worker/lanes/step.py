"""A unit of work for lanes whose jobs stay on the device from one turn to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.jobs.execution import Execution


@dataclass(frozen=True, slots=True)
class Step:
    """One step of all that a lane has on the device, and who joins with it."""

    joining: Sequence[Execution] = ()

"""What the courier and those who run its jobs tell each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from common.metrics.declaration import MetricFamily


@dataclass(frozen=True, slots=True)
class CourierJob:
    """A leased job of a system lane."""

    lane: str
    id: str
    tag: bytes
    tenant: str
    """Under which it is counted: see common/jobs/system_lanes.py."""
    input: Any
    created_ms: int


@dataclass(frozen=True, slots=True)
class Done:
    """The job is settled; its result is kept for a moment, and read by nobody but tests."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class Later:
    """The job is to be run again after this delay. That is no failure, and is not counted."""

    delay_ms: int


Outcome = Done | Later


class Runner(ABC):
    """Runs the jobs of one system lane, in the courier's event loop.

    A job's lease is renewed for as long as it runs; where the lease is lost, its task is
    canceled, and what it returns is dropped. A job whose run raises is run again later.
    """

    concurrency: int = 1
    """Most jobs in hand at a time."""
    leave_seconds: float = 0.0
    """How long jobs in hand may go on when the courier is told to leave; then they return to the
    lane.
    """

    async def start(self) -> None:  # noqa: B027 - most need none of these
        """Called once in the event loop, before the first job."""

    async def stop(self) -> None:  # noqa: B027
        """Called once, after the last job."""

    async def prepare(self, jobs: Sequence[CourierJob]) -> None:  # noqa: B027
        """Read what these jobs need, in one round trip; called before they run."""

    @abstractmethod
    async def run(self, job: CourierJob) -> Outcome:
        """Run one job."""

    async def note(self, ended: Sequence[tuple[CourierJob, Outcome]]) -> None:  # noqa: B027
        """Write down how these ended, in one round trip; called before their leases end."""

    def families(self) -> Iterable[MetricFamily]:
        """Its metrics, for one scrape."""
        return ()

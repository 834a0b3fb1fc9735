"""What those who only look see of a worker: the report, the metrics, the health server.

`Engine` has this shape; nobody who looks needs to know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.redis_health import RedisHealth
from worker.residency.residency import Resident


@dataclass(slots=True)
class EventCounts:
    """Jobs by whether their Celery events were sent. Written by the finisher's thread."""

    sent: int = 0
    sampled_out: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """What was counted since the start."""

    finished: int
    """Results published."""
    fenced: int
    """Results of leases that were another's by then."""
    cache_stored: int
    cache_dropped: int
    switches: int
    """How often the device went from one lane to another."""


class EngineView(Protocol):
    """One worker process, to read only. Any thread may look; a reading may lag by a batch."""

    @property
    def worker(self) -> str:
        """Its Celery node name."""

    @property
    def device(self) -> str:
        """ "cpu", "cuda:0" or "mps"."""

    @property
    def started_at(self) -> float:
        """Unix seconds."""

    @property
    def on_the_bus(self) -> bool:
        """Whether Celery's remote control reaches it."""

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """By name."""

    @property
    def residents(self) -> Mapping[str, Resident]:
        """Every model of the catalog, in memory or not."""

    @property
    def loading(self) -> str | None:
        """The model that is being loaded or warmed up."""

    @property
    def device_time(self) -> DeviceTime:
        """What the device did with its time."""

    @property
    def redis_health(self) -> RedisHealth:
        """When Redis last answered."""

    @property
    def event_counts(self) -> EventCounts:
        """What became of Celery's events."""

    def counters(self) -> Counters:
        """What was counted until now."""

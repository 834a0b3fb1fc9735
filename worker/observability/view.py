"""The read-only interface of a worker, for the report, the metrics and the health server.

`Engine` implements it, so that its readers need not import the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from common.settings import WorkerSettings
from worker.guard.arrival import Arrival
from worker.jobs.worker_counts import WorkerCounts
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.residency.residency import Resident


@dataclass(slots=True)
class EventCounts:
    """Jobs by whether their Celery events were sent. Written by the finisher's thread."""

    sent: int = 0
    sampled_out: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters since the worker's start."""

    finished: int
    """Number of results published."""
    fenced: int
    """Number of results refused because the lease was no longer this worker's."""
    cache_stored: int
    cache_dropped: int
    switches: int
    """How often the device switched from one lane to another."""
    process: WorkerCounts
    """What the process counts of leases and tenants."""


class EngineView(Protocol):
    """One worker process, read-only. Any thread may read; a reading may lag by one batch."""

    @property
    def worker(self) -> str:
        """Its Celery node name."""

    @property
    def settings(self) -> WorkerSettings:
        """As the process was started with."""

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
    def state(self) -> WorkerState:
        """What the threads share."""

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The lanes by name."""

    @property
    def residents(self) -> Mapping[str, Resident]:
        """Every model of the catalog, loaded or not."""

    @property
    def loading(self) -> str | None:
        """The model that is being loaded or warmed up."""

    @property
    def device_time(self) -> DeviceTime:
        """The device's time by use."""

    @property
    def redis_health(self) -> RedisHealth:
        """When Redis last answered."""

    @property
    def event_counts(self) -> EventCounts:
        """Counts of sent and sampled Celery events."""

    @property
    def leaving(self) -> str:
        """Why the process is ending by itself; empty while it is not."""

    @property
    def arrival(self) -> Arrival:
        """How long it took to come up, and its garbage collector's pauses."""

    def missing(self, lane: Lane) -> dict[str, str]:
        """Models with a share of this lane's jobs that are not loaded, and why."""

    def warnings(self) -> list[str]:
        """Sentences about calls of models that take long, and why the process leaves."""

    def model_warnings(self) -> Mapping[str, str]:
        """By model, what an operator should know of its precision or backend."""

    def rss_mb(self) -> float:
        """The resident memory of the process."""

    def counters(self) -> Counters:
        """The current counters."""

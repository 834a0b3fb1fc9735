"""What one look at a lane found, and what follows from it: above all its demand.

The demand is defined here and nowhere else; the HTTP view, the metrics and whatever scales workers
take it from the same sample.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.catalog import ModelSpec
from common.redis.keys import BANDS
from common.worker_report import WorkerReport

_SECONDS = re.compile(rb"\d{1,9}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane in the last sample."""

    waiting: tuple[int, ...] = (0, 0, 0, 0)
    """Waiting jobs by band, those beside it included; the first band is served first."""
    beside: int = 0
    """How many of these stand beside the bands, until it is their tenant's turn."""
    leased: int = 0
    delayed: int = 0
    due: int = 0
    """How many of the delayed ones fall due within the lane's cold start."""
    cold_start_seconds: float = 0.0
    """From demand to a worker that serves it."""
    dead: int = 0
    oldest_age_seconds: float = 0.0
    """How long the oldest of the jobs that are served next has waited; 0 while none waits."""
    reported: int = 0
    """Live workers that have this lane, whether or not they could load its model."""
    workers: int = 0
    """Live workers that serve it, or will once its model is loaded."""
    loaded: int = 0
    """How many of these workers have its model in memory."""
    load_errors: tuple[str, ...] = ()
    """The errors of live workers that could not load its model."""
    measured: float | None = None
    """Measured throughput of all its workers, jobs per second; None when unknown."""
    estimated: float | None = None
    """Throughput estimated from the workers' batch times, for use while none is measured."""
    tenants: Mapping[str, int] | None = None
    """Jobs waiting or leased by tenant; None while few jobs wait."""
    counters: Mapping[str, int] = field(default_factory=dict)
    breakers: Mapping[str, str] = field(default_factory=dict)
    """The records of its circuit breakers, as stored in Redis, by tenant; the lane's own is under
    an empty name."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failures of the model by tenant; a count begins anew after some time."""

    @property
    def demand(self) -> int:
        """The jobs that workers are needed for: waiting (in the bands and beside them), leased,
        and delayed ones that fall due before a new worker could serve them. Followers are not
        among them: they are settled with their leader.
        """
        return sum(self.waiting) + self.leased + self.due

    @property
    def backlog(self) -> int:
        """Jobs waiting, leased or delayed."""
        return sum(self.waiting) + self.leased + self.delayed

    @property
    def per_second(self) -> float | None:
        """Jobs per second: measured, else estimated, else None."""
        return self.measured or self.estimated

    @property
    def drain_seconds(self) -> float | None:
        """Seconds until the demand is worked off at this rate; 0 without any, None when unknown."""
        if not self.demand:
            return 0.0
        return self.demand / self.per_second if self.per_second else None

    def ahead(self, priority: int = 0) -> int:
        """Jobs waiting in this priority's band and those before it."""
        return sum(n for band, n in zip(BANDS, self.waiting, strict=True) if band <= priority)

    def start_seconds(self, priority: int = 0) -> float | None:
        """Estimated seconds until a job published now starts; None when unknown."""
        rate = self.per_second
        return None if rate is None else self.ahead(priority) / rate


class ColdStarts:
    """Seconds from demand to a worker that serves a lane.

    The catalog's figure where it gives one. Otherwise the setting, until a worker process runs,
    and what its start and the model's load took when they were last seen: kept in Redis, as at 0
    replicas nobody reports it.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], setting_seconds: float) -> None:
        self._fixed = {
            lane: spec.cold_start_seconds
            for lane, spec in specs.items()
            if spec.cold_start_seconds is not None
        }
        self._setting_seconds = setting_seconds
        self._measured: dict[str, float] = {}

    def seconds(self, lane: str) -> float:
        """What to reckon with."""
        fixed = self._fixed.get(lane)
        return self._setting_seconds + self._measured.get(lane, 0.0) if fixed is None else fixed

    def recall(self, kept: Mapping[bytes, bytes]) -> None:
        """What Redis has, as lane -> seconds; what is no number is measured anew."""
        self._measured = {
            lane.decode(): float(seconds)
            for lane, seconds in kept.items()
            if _SECONDS.fullmatch(seconds)
        }

    def news(self, reports: Sequence[WorkerReport]) -> dict[str, str]:
        """What the reports say that is not known yet, as text to keep: the longest per lane, to a
        tenth of a second. Where one is known, differences of less than a fifth, or half a second,
        are none.
        """
        seen: dict[str, float] = {}
        for report in reports:
            for lane, said in report.lanes.items():
                model = report.models.get(said.model)
                if said.loaded and model and report.start_seconds and lane not in self._fixed:
                    took = report.start_seconds + model.load_seconds
                    seen[lane] = max(seen.get(lane, 0.0), took)
        return {
            lane: f"{took:.1f}"
            for lane, took in seen.items()
            if (known := self._measured.get(lane)) is None or abs(took - known) > max(0.5, took / 5)
        }

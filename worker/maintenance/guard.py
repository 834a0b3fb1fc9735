"""Bounds what models may do to the process that runs them: time, memory, threads, jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Protocol

from common.catalog import Catalog
from common.runtime import resident_set_mb
from common.settings import Settings
from worker.guard.arrival import Arrival
from worker.guard.calls import Calls
from worker.guard.limits import VerbLimits
from worker.guard.supervision import Supervision
from worker.lanes.lane import Lane
from worker.maintenance.departure import Departure, ProcessLimits
from worker.maintenance.watchdog import Watchdog
from worker.pipeline.error_policy import Retries
from worker.pipeline.failed_batch import charge_stuck
from worker.pipeline.finisher import Finisher
from worker.pipeline.runner import Runner
from worker.residency.model_host import ModelHost
from worker.residency.residency import Residency

_LOOK_SECONDS = 0.2


class Watched(Protocol):
    """A part that bounds its calls of models."""

    def look(self, now: float) -> None:
        """Look at them, at this steady time."""


class Guard:
    """The calls of models in one process, what watches them, and how the process leaves."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        supervision: Supervision,
        finished: Callable[[], int],
    ) -> None:
        """finished returns how many results were published."""
        self.supervision = supervision
        self.arrival = Arrival(supervision.began)
        limits = VerbLimits(settings)
        supervision.marks.name(list(catalog.models))
        self.calls = Calls(limits, supervision.marks)
        self.departure = Departure(
            self.calls, ProcessLimits.of(settings), resident_set_mb, finished
        )
        self._look_seconds = limits.look_seconds(catalog.models.values())
        self.retries = Retries(settings.max_attempts, settings.retry_base_seconds * 1000)

    def take_out(self, residency: Residency) -> None:
        """Keep out the models that the supervisor has taken out of service."""
        for model, (reason, seconds) in self.supervision.out_of_service.items():
            if model in residency.models:
                residency.take_out(model, reason, inf if seconds is None else seconds)

    def watchdog(self, *parts: Watched) -> Watchdog:
        """What has these parts look at their calls."""
        looks = [part.look for part in (*parts, self.departure)]
        return Watchdog(looks, self.supervision.marks, self._look_seconds)

    def watch_arrival(self, now: float, models: ModelHost, lanes: Mapping[str, Lane]) -> None:
        """Tell how far the process has come up; called now and then."""
        times = [one.admitted_at for one in models.residency.models.values() if one.admitted_at]
        busy = any(lane.in_hand for lane in lanes.values())
        self.arrival.look(now, min(times, default=None), loading=models.is_starting(), busy=busy)

    def end_run(
        self, runner: Runner, finisher: Finisher, lanes: Mapping[str, Lane], deadline: float
    ) -> None:
        """Wait for the running batch until then; charge its job where it is known not to end."""
        while self.departure.stuck is None:
            left = deadline - time.monotonic()
            if runner.join(max(0.1, min(left, _LOOK_SECONDS))) or left <= 0:
                return
        call = self.departure.stuck
        if call is None or not call.about:
            return
        seconds = self.calls.limits.of(call.verb, call.spec)
        lane = _lane_of(call.about[0].tag, lanes.values())
        if lane and charge_stuck(call.about, seconds, self.retries):
            finisher.submit_ended(lane, call.about)

    def warnings(self) -> list[str]:
        """Sentences about calls that take long, and why the process leaves."""
        leaves = [f"it leaves: {self.departure.reason}"] if self.departure.reason else []
        return [*leaves, *self.calls.slow()]


def _lane_of(tag: bytes, lanes: Iterable[Lane]) -> Lane | None:
    return next((lane for lane in lanes if tag in lane.in_hand), None)

"""Extends the leases in hand, also while other threads are blocked."""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from worker.jobs.leases import LaneLeases
from worker.lanes.redis_health import RedisHealth
from worker.lanes.state import WorkerState
from worker.maintenance.caretaker import Caretaker

log = structlog.get_logger(__name__)

_AFTER_TROUBLE_SECONDS = 0.3


class LeaseRenewer(Caretaker):
    """Renews every lease in hand, and marks those that were lost."""

    def __init__(
        self,
        state: WorkerState,
        leases: Mapping[str, LaneLeases],
        redis_health: RedisHealth,
        interval_seconds: float,
    ) -> None:
        """leases use a connection of the renewer's own."""
        super().__init__("renewer")
        self._state = state
        self._leases = leases
        self._redis_health = redis_health
        self._interval_seconds = interval_seconds
        self._in_trouble = False

    def interval(self) -> float:
        """The configured interval; a short one until Redis is back."""
        normal = self._interval_seconds
        return min(normal, _AFTER_TROUBLE_SECONDS) if self._in_trouble else normal

    def on_trouble(self) -> None:
        """Retry at short intervals, so that leases are renewed before any worker reaps them."""
        self._in_trouble = True

    def run_once(self) -> None:
        """Renew every lease in hand."""
        for lane in self._state.lanes.values():
            tags = self._state.tags_in_hand(lane)
            if not tags:
                continue
            lost = self._leases[lane.name].renew(tags)
            self._redis_health.answered(time.monotonic())
            if count := self._state.leases_lost(lane, lost):
                log.warning("leases_lost", lane=lane.name, jobs=count)
        self._in_trouble = False

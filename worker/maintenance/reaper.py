"""Returns the expired leases of dead workers to their lanes.

Every worker runs one, jittered and without a mutex, because the script rechecks each
lease by the Redis server's clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

import structlog

from worker.jobs.leases import LaneLeases
from worker.lanes.lane import Lane
from worker.maintenance.caretaker import Caretaker

log = structlog.get_logger(__name__)

_REAP_SECONDS = 1.0
_AFTER_TROUBLE_SECONDS = 2.0
_SHORTEST_SECONDS = 0.01


class LeaseReaper(Caretaker):
    """Returns expired leases and due delayed jobs to their lanes."""

    def __init__(self, lanes: Mapping[str, Lane], leases: Mapping[str, LaneLeases]) -> None:
        """leases use a connection of the reaper's own."""
        super().__init__("reaper")
        self._lanes = lanes
        self._leases = leases
        self._reap_at = 0.0

    def interval(self) -> float:
        """One second, jittered so that workers do not reap in step; less for a due job."""
        return max(_SHORTEST_SECONDS, self._reap_at - time.monotonic())

    def on_trouble(self) -> None:
        """Delay the next round, so that after an outage live workers renew the leases that expired
        during it before they are reaped.
        """
        self._reap_at = time.monotonic() + _AFTER_TROUBLE_SECONDS

    def run_once(self) -> None:
        """Reap every lane."""
        pause = _REAP_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load
        self._reap_at = time.monotonic() + pause
        for name, leases in self._leases.items():
            reaped, _, next_due_ms = leases.reap(result_ttl=self._lanes[name].result_ttl)
            if reaped:
                log.warning("leases_reaped", lane=name, jobs=reaped)
            if 0 <= next_due_ms < _REAP_SECONDS * 1000:
                self._reap_at = min(self._reap_at, time.monotonic() + next_due_ms / 1000)

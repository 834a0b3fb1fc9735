"""The one thread that looks at how long the calls of models take; it waits for nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from worker.guard.marks import Marks
from worker.maintenance.caretaker import Caretaker

log = structlog.get_logger(__name__)

Look = Callable[[float], object]
"""Looks at some calls, with the steady time."""


class Watchdog(Caretaker):
    """Marks that the process is alive, and has its parts look at their calls."""

    def __init__(self, looks: Sequence[Look], marks: Marks, interval_seconds: float) -> None:
        super().__init__("watchdog")
        self._looks = looks
        self._marks = marks
        self._interval_seconds = interval_seconds

    def start(self) -> None:
        """Start the thread; from now on its silence means that the process is frozen."""
        self._marks.beat()
        super().start()

    def interval(self) -> float:
        """A part of the shortest limit."""
        return self._interval_seconds

    def run_once(self) -> None:
        """Look once."""
        self._marks.beat()
        for look in self._looks:
            try:
                look(time.monotonic())
            except Exception:
                log.exception("watchdog_failed")

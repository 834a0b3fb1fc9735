"""How a worker process comes up: its garbage collector, and the time to its first result.

Imports and loads make objects that stay, and each full collection looks at all of them in vain:
without collections a start takes a tenth less CPU time. So the collector is off until the models of
the start are loaded; then what there is is frozen, which no later collection looks at again, and
the collector is on. Its longer pauses are counted, as all threads stand still in them.
"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Any

LONG_PAUSE_SECONDS = 0.005
_LONGEST_WITHOUT_SECONDS = 30.0
"""A load may take minutes, while other models serve: they make garbage."""
_AT_ONCE_SECONDS = 1.0
"""A job reserved so soon after the first model was ready had waited for it."""


class Pauses:
    """The garbage collector's pauses of more than 5 ms. Written by whichever thread collects."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.longest_seconds = 0.0
        self._began = 0.0

    def note(self, phase: str, _about: dict[str, Any]) -> None:
        """A callback of `gc`, at the beginning and the end of each collection."""
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        elif now - self._began > LONG_PAUSE_SECONDS:
            pause = now - self._began
            self.count += 1
            self.seconds += pause
            self.longest_seconds = max(self.longest_seconds, pause)


class Arrival:
    """One process from its start to its first result. Times are seconds on the steady clock."""

    def __init__(self, began: float) -> None:
        """began is when the process, or the supervisor that waited for it, was started."""
        self.pauses = Pauses()
        self.cold_start_seconds: float | None = None
        """From the start to the first result, or to the first loaded model where no job waited
        then; None until it is known."""
        self._began = began
        self._ready: float | None = None

    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def published(self, now: float, reserved: float) -> None:
        """The first result was published, of a job reserved at that time."""
        if self.cold_start_seconds is not None:
            return
        ready = self._ready if self._ready is not None else now
        waited = reserved - ready < _AT_ONCE_SECONDS
        self.cold_start_seconds = (now if waited else ready) - self._began

    def look(self, now: float, ready: float | None, *, loading: bool, busy: bool) -> None:
        """Called now and then: since when some model is ready, whether one is being loaded, and
        whether jobs are in hand.
        """
        self._ready = ready = self._ready or ready
        idle = ready is not None and not busy and now - ready > _AT_ONCE_SECONDS
        if self.cold_start_seconds is None and ready is not None and idle:
            self.cold_start_seconds = ready - self._began
        over = not loading or now - self._began > _LONGEST_WITHOUT_SECONDS
        if over and not gc.isenabled():
            resume_collecting(self.pauses)


def stop_collecting() -> None:
    """From now on until `resume_collecting`."""
    gc.disable()


def resume_collecting(pauses: Pauses) -> None:
    """Freeze what there is, then collect again, and count the pauses.

    Without a collection before: it would take a third of a second, before the first jobs.
    """
    gc.freeze()
    gc.callbacks.append(pauses.note)
    gc.enable()


def process_began() -> float:
    """When this process was started, on the steady clock; now where the kernel does not say."""
    now = time.monotonic()
    try:
        words = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        age = up - int(words[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return now
    return now - age if 0 <= age < up else now

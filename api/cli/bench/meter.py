"""What the load itself takes of this machine, and how busy that is with whatever."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Used:
    """A span of the steady clock, and what this process did in it, in seconds."""

    began: float
    ended: float
    cpu: float = 0.0
    waited: float | None = None
    """For a core; None where the system does not tell."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began

    @property
    def waited_share(self) -> float | None:
        """Of the time in which it needed a core."""
        if self.waited is None or self.waited + self.cpu <= 0:
            return None
        return round(self.waited / (self.waited + self.cpu), 4)


class Meter:
    """Counts from its making until `read`."""

    def __init__(self) -> None:
        self._began, self._cpu, self._waited = time.monotonic(), time.process_time(), _waited()

    def read(self) -> Used:
        """What was used since."""
        waited = _waited()
        known = waited is not None and self._waited is not None
        return Used(
            self._began,
            time.monotonic(),
            time.process_time() - self._cpu,
            waited - self._waited if known else None,  # type: ignore[operator]  # both are known
        )


def _waited() -> float | None:
    """Seconds that this thread, on which the loop runs, was ready and had no core."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def machine_busy() -> tuple[float, float] | None:
    """Ticks in use and in all since the machine's start; None where /proc does not tell."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    ticks = [float(word) for word in words]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def share_between(
    before: tuple[float, float] | None, after: tuple[float, float] | None
) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def load_average() -> float | None:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None

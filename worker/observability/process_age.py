"""How old this process is."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

_IMPORTED = time.monotonic()
_STARTED_FIELD = 19
"""Of /proc/self/stat, after the name: the start, in clock ticks since the machine's."""


def process_age() -> float:
    """Seconds since the process was started; without /proc, since this module was imported."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        uptime = Path("/proc/uptime").read_text(encoding="ascii")
        ticks = int(stat.rpartition(") ")[2].split()[_STARTED_FIELD])
        return float(uptime.split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED


@cache
def process_started_at() -> float:
    """When the process was started, Unix seconds."""
    return time.time() - process_age()

"""Lanes as a table, for `lanefleet lanes list` and `lanefleet top`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_COUNTS = ("demand", "waiting", "leased", "delayed", "dead", "workers")
_PIPED_COLUMNS = 140
_UNKNOWN = "-"


def wide_console() -> Console:
    """A console that leaves tables whole where they do not go to a terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)


def lane_table(lanes: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a lane; the fields are those of `GET /v1/lanes`."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column("lane", no_wrap=True)
    for name in (*_COUNTS, "oldest", "jobs/s", "drain"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("breaker", no_wrap=True)
    table.add_column("")
    for name, lane in lanes.items():
        table.add_row(
            Text(name),
            *(str(lane[count]) for count in _COUNTS),
            duration(lane["oldest_age_seconds"]),
            _rate(lane["drain_jobs_per_second"]),
            duration(lane["drain_seconds"]),
            lane["breaker"]["state"],
            _remark(lane),
        )
    return table


def _remark(lane: Mapping[str, Any]) -> Text:
    if lane["abandoned"]:
        return Text("nobody serves it", style="red")
    if lane["demand"] and not lane["workers"]:
        return Text("waits for a worker", style="yellow")
    return Text()


def _rate(per_second: float | None) -> str:
    return _UNKNOWN if per_second is None else f"{per_second:.3g}"


def duration(seconds: float | None) -> str:
    """In one unit: 12s, 3m, 5h, 2d."""
    if seconds is None:
        return _UNKNOWN
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"

"""Tables with their targets: printed as Markdown, kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Target:
    """One figure of the Speed goals and what was measured of it."""

    figure: int
    says: str
    measured: float | None
    limit: float
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or why it could not be judged."""
        if self.measured is None:
            return "not measured"
        met = self.measured <= self.limit if self.at_most else self.measured >= self.limit
        return "met" if met else "missed"


@dataclass(slots=True)
class Table:
    """What one benchmark found."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """Every run, for the JSON."""

    def markdown(self) -> str:
        """The table, its targets and its notes."""
        numeric = ["---"] + ["---:"] * (len(self.columns) - 1)
        lines = [f"### {self.name}: {self.title}", ""]
        lines += [_row(self.columns), _row(numeric)]
        lines += [_row([show(cell) for cell in row]) for row in self.rows]
        if self.targets:
            lines += ["", "| figure | target | measured | |", "|---|---|---:|---|"]
            lines += [
                _row([str(one.figure), one.says, show(one.measured), one.verdict])
                for one in self.targets
            ]
        lines += ["", *(f"Note: {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"


def show(cell: Cell) -> str:
    """A number with as many digits as it deserves."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """How many times theirs; None where either is missing."""
    return ours / theirs if ours and theirs else None


def machine(redis_version: str) -> dict[str, str | int | float]:
    """Where and when the figures were taken."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "server": redis_version,
        "command": "python -m tests.benchmarks " + " ".join(sys.argv[1:]),
    }


def write(out: Path, about: dict[str, str | int | float], tables: Sequence[Table]) -> Path:
    """Both forms into the folder; returns the JSON's path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "benchmarks.json"
    bodies = [
        {**asdict(table), "targets": [{**asdict(t), "verdict": t.verdict} for t in table.targets]}
        for table in tables
    ]
    path.write_text(json.dumps({"machine": about, "benchmarks": bodies}, indent=1))
    heading = ", ".join(f"{name} {value}" for name, value in about.items())
    (out / "benchmarks.md").write_text(
        f"{heading}\n\n" + "\n".join(table.markdown() for table in tables)
    )
    return path


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

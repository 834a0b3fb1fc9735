"""The course of a training, as a table and, where matplotlib is there, as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from worker.tools.training.loop import Point

__all__ = ("draw_curve",)


def draw_curve(history: Sequence[Point], folder: Path) -> list[str]:
    """Write loss.csv and, if it can be drawn, loss.png; returns their names."""
    with (folder / "loss.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(asdict(history[0])))
        table.writeheader()
        table.writerows(asdict(one) for one in history)
    if find_spec("matplotlib") is None:
        return ["loss.csv"]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    minutes = [one.minutes for one in history]
    left.plot(minutes[1:], [one.loss for one in history[1:]], color="#22577a")
    left.set_xlabel("CPU minutes")
    left.set_ylabel("loss", color="#22577a")
    right.plot(minutes, [one.mean for one in history], "--", color="#c8553d")
    right.set_ylabel("held-out agreement", color="#c8553d")
    figure.savefig(folder / "loss.png", dpi=90)
    return ["loss.png", "loss.csv"]

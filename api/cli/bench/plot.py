"""A run as a picture: throughput and latency over the number of clients, or over time."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from api.cli.bench.figures import Stage, knee
from common.errors import ConfigurationError

_INK, _ACCENT, _KNEE = "#22577a", "#c8553d", "#666666"
_FORMATS = (".png", ".svg", ".pdf")


def check_plot(file: Path) -> None:
    """Raise ConfigurationError where it could not be drawn: before the load, not after."""
    if file.suffix.lower() not in _FORMATS:
        raise ConfigurationError(f"--plot {file}: its name must end in {', '.join(_FORMATS)}")
    if find_spec("matplotlib") is None:
        raise ConfigurationError(
            "--plot needs matplotlib: python3 deploy/bootstrap.py --extra plot (pip alone would "
            "put Pillow over pillow-simd)"
        )


def draw(stages: Sequence[Stage], file: Path) -> None:
    """Write the picture; one stage is drawn over time, several over their clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    if len(stages) == 1:
        _over_time(left, right, stages[0])
    else:
        _over_clients(left, right, stages)
    left.set_ylabel("results a second", color=_INK)
    left.set_ylim(bottom=0)
    left.grid(visible=True, alpha=0.25)
    left.set_title(stages[0].model, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)


def _over_clients(left: Any, right: Any, stages: Sequence[Stage]) -> None:
    ordered = sorted(stages, key=lambda one: one.clients)
    clients = [one.clients for one in ordered]
    left.plot(clients, [one.items_per_second for one in ordered], "o-", color=_INK)
    right.plot(clients, [one.p50_ms for one in ordered], "--", color=_ACCENT, label="p50")
    right.plot(clients, [one.p95_ms for one in ordered], ":", color=_ACCENT, label="p95")
    right.set_ylabel("latency, ms (log)", color=_ACCENT)
    right.set_yscale("log")
    right.legend(loc="upper left", frameon=False)
    left.set_xscale("log", base=2)
    left.set_xticks(clients, [str(one) for one in clients])
    left.minorticks_off()
    left.set_xlabel("clients")
    if found := knee(stages):
        left.axvline(found.clients, color=_KNEE, linewidth=0.8)
        left.annotate(
            f"knee: {found.clients}",
            (found.clients, 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            color=_KNEE,
        )


def _over_time(left: Any, right: Any, stage: Stage) -> None:
    seconds = range(len(stage.windows))
    left.step(seconds, [one.items for one in stage.windows], where="post", color=_INK)
    right.plot(seconds, [one.p95_ms for one in stage.windows], ":", color=_ACCENT)
    right.set_ylabel("p95, ms", color=_ACCENT)
    right.set_ylim(bottom=0)
    left.set_xlabel(f"seconds, {stage.clients} clients")

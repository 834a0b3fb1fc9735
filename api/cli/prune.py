"""`lanefleet prune`: a model with parts of its network taken away."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import JsonFlag
from api.cli.tools import run_tool


class Method(StrEnum):
    """What is taken away."""

    STRUCTURED = "structured"
    MAGNITUDE = "magnitude"


def prune(
    model: Annotated[str, typer.Argument(help="The model's name in the catalog.")],
    target: Annotated[Path, typer.Argument(help="The folder to make; it must not exist.")],
    method: Annotated[
        Method,
        typer.Option(help="structured: whole channels and heads; magnitude: single weights."),
    ] = Method.STRUCTURED,
    share: Annotated[float, typer.Option(min=0.01, max=0.95, help="How much of it.")] = 0.3,
    gradual: Annotated[
        Path | None,
        typer.Option(help="Inputs, no labels: prune in steps, and learn again after each."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Steps, with --gradual.")] = 3,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="CPU minutes of learning after each step.")
    ] = 2.0,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least mean agreement, held out; with --gradual 0.9."),
    ] = None,
    most: Annotated[int, typer.Option(min=2, help="Inputs read.")] = 1_000,
    keep_anyway: Annotated[
        bool, typer.Option("--keep-anyway", help="Make it though it is no faster or disagrees.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Take a share of a network away, and say what that gains and costs."""
    arguments = {
        "model": model,
        "target": str(target.absolute()),
        "method": method.value,
        "share": share,
        "data": str(gradual.absolute()) if gradual else None,
        "steps": steps,
        "minutes": minutes,
        "tolerance": tolerance,
        "most": most,
        "keep_anyway": keep_anyway,
    }
    if not run_tool("prune", arguments, as_json=as_json).get("made"):
        raise typer.Exit(1)

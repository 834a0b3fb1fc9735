"""`lanefleet distill`: a smaller model that answers as a larger one does."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import JsonFlag
from api.cli.tools import run_tool


class Loss(StrEnum):
    """What the student is to match."""

    OUTPUTS = "outputs"
    FEATURES = "features"


Minutes = Annotated[
    float, typer.Option(min=0.01, help="CPU minutes of training, over all of its starts.")
]
Tolerance = Annotated[
    float, typer.Option(min=0, max=1, help="Least mean agreement on held-out inputs.")
]
Most = Annotated[
    int | None, typer.Option(min=2, help="Inputs read; else 20,000 texts, 1,000 pictures.")
]
HeldOut = Annotated[float, typer.Option(min=0.01, max=0.9, help="Share that only judges.")]


def distill(
    teacher: Annotated[str, typer.Argument(help="The model's name in the catalog.")],
    target: Annotated[Path, typer.Argument(help="The folder to make; it must not exist.")],
    data: Annotated[Path, typer.Option(help="A folder or file of inputs; no labels.")],
    loss: Annotated[
        Loss, typer.Option(help="features: hidden states as well as outputs.")
    ] = Loss.OUTPUTS,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Its layers (blocks a stage); else half as many.")
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(min=4, help="Its width; else a text model's is the teacher's.")
    ] = None,
    minutes: Minutes = 30.0,
    tolerance: Tolerance = 0.9,
    most: Most = None,
    held_out: HeldOut = 0.1,
    batch: Annotated[int, typer.Option(min=1, help="Inputs a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of the first steps.")] = 3e-4,
    patience: Annotated[
        int, typer.Option(min=1, help="Judgements without a gain after which it ends.")
    ] = 12,
    as_json: JsonFlag = False,
) -> None:
    """Teach a small student what a model answers; a killed run is gone on with."""
    arguments = {
        "model": teacher,
        "target": str(target.absolute()),
        "data": str(data.absolute()),
        "loss": loss.value,
        "layers": layers,
        "hidden": hidden,
        "minutes": minutes,
        "tolerance": tolerance,
        "most": most,
        "held_out": held_out,
        "batch": batch,
        "learning_rate": learning_rate,
        "patience": patience,
    }
    if not run_tool("distill", arguments, as_json=as_json).get("made"):
        raise typer.Exit(1)

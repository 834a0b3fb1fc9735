"""`lanefleet quantize`: a model in int8, where it still agrees with fp32 and is faster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import JsonFlag
from api.cli.tools import run_tool
from common.errors import ConfigurationError

Calibration = Annotated[
    Path | None, typer.Option(help="Inputs that tune; then all of --samples judge.")
]
Static = Annotated[
    bool | None,
    typer.Option("--static/--dynamic", help="Else static for images, dynamic for the rest."),
]
Tolerance = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Least agreement; else the catalog's, else the gate's."),
]
Aware = Annotated[
    Path | None,
    typer.Option(help="Inputs, no labels: teach the weights what int8 does, before it."),
]
Minutes = Annotated[float | None, typer.Option(min=0.01, help="CPU minutes of that; else 3.")]


def quantize(
    source: Annotated[
        str, typer.Argument(help="A model of the catalog, or a folder of `lanefleet export`.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder to make; it must not exist.")],
    samples: Annotated[
        Path | None,
        typer.Option(help="Inputs: half of them tune, the others judge; else the catalog's."),
    ] = None,
    calibration: Calibration = None,
    most: Annotated[
        int | None, typer.Option(min=32, help="Most inputs to read of either; else 800.")
    ] = None,
    static: Static = None,
    tolerance: Tolerance = None,
    per_channel: Annotated[
        bool, typer.Option(help="Whether each output channel has a scale of its own.")
    ] = True,
    backend: Annotated[
        list[str] | None, typer.Option(help="onnx or openvino; else both are measured.")
    ] = None,
    aware: Aware = None,
    minutes: Minutes = None,
    as_json: JsonFlag = False,
) -> None:
    """Quantize a model to int8, as far as it agrees with fp32 on samples that tuned nothing."""
    unknown = sorted(set(backend or ()) - {"onnx", "openvino"})
    if unknown:
        raise ConfigurationError(f"--backend {unknown[0]}: choose onnx or openvino")
    arguments = {
        "source": str(Path(source).absolute()) if Path(source).is_dir() else source,
        "target": str(target.absolute()),
        "samples": str(samples.absolute()) if samples else None,
        "calibration": str(calibration.absolute()) if calibration else None,
        "most": most,
        "static": static,
        "tolerance": tolerance,
        "per_channel": per_channel,
        "backends": backend,
        "aware": str(aware.absolute()) if aware else None,
        "minutes": minutes,
    }
    if run_tool("quantize", arguments, as_json=as_json)["made"] is None:
        raise typer.Exit(1)

"""`lanefleet quantize`: a model in int8, where it still agrees with fp32 and is faster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import JsonFlag
from api.cli.tools import run_tool
from common.errors import ConfigurationError


def quantize(
    source: Annotated[
        str, typer.Argument(help="A model of the catalog, or a folder of `lanefleet export`.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder to make; it must not exist.")],
    samples: Annotated[
        Path | None,
        typer.Option(help="Inputs: half of them tune, the others judge; else the catalog's."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Inputs that tune; then all of --samples judge.")
    ] = None,
    static: Annotated[
        bool | None,
        typer.Option("--static/--dynamic", help="Else static for images, dynamic for the rest."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least agreement; else the catalog's, else 0.99."),
    ] = None,
    per_channel: Annotated[
        bool, typer.Option(help="Whether each output channel has a scale of its own.")
    ] = True,
    backend: Annotated[
        list[str] | None, typer.Option(help="onnx or openvino; else both are measured.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Quantize a model to int8, as far as it agrees with fp32 on samples that tuned nothing."""
    if target.exists():
        raise ConfigurationError(f"{target} is there already; name a folder that is not")
    unknown = sorted(set(backend or ()) - {"onnx", "openvino"})
    if unknown:
        raise ConfigurationError(f"--backend {unknown[0]}: choose onnx or openvino")
    arguments = {
        "source": str(Path(source).absolute()) if Path(source).is_dir() else source,
        "target": str(target.absolute()),
        "samples": str(samples.absolute()) if samples else None,
        "calibration": str(calibration.absolute()) if calibration else None,
        "static": static,
        "tolerance": tolerance,
        "per_channel": per_channel,
        "backends": backend,
    }
    if run_tool("quantize", arguments, as_json=as_json)["made"] is None:
        raise typer.Exit(1)

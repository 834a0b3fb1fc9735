"""`lanefleet check`: what a model's author, or who puts it into service, wants to know of it."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.options import JsonFlag
from api.cli.tools import run_tool

Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help="A model of the catalog; several with --all-backends."),
]


def check(
    names: Models = None,
    all_backends: Annotated[
        bool, typer.Option(help="Compare torch, ONNX Runtime, OpenVINO and the precisions.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long to time it.")] = 10.0,
    limit: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds after which a verb hangs; unset is as in a worker."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Most samples to compare on; unset is as the gate's."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda:0 or mps.")] = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Load a model as a worker would: contract, batches, speed, accuracy. Status 1: it fails."""
    arguments = {
        "models": names or [],
        "all_backends": all_backends,
        "seconds": seconds,
        "verb_seconds": limit,
        "samples": samples,
        "device": device,
    }
    report = run_tool("check", arguments, as_json=as_json)
    if report.get("refused") and not all_backends:
        raise typer.Exit(1)

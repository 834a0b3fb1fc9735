"""`lanefleet compile`: a model's network as machine code of this processor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import JsonFlag
from api.cli.tools import run_tool


def compile_model(
    model: Annotated[str, typer.Argument(help="The model's name in the catalog.")],
    samples: Annotated[
        Path | None,
        typer.Option(help="Inputs to compare results by; else the catalog's, else its example."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least agreement with the eager network.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the worker that will run it; else all.")
    ] = None,
    again: Annotated[bool, typer.Option(help="Compile it anew where it is compiled.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compile a model's network for this machine, and keep it if it is faster."""
    arguments = {
        "model": model,
        "samples": str(samples.absolute()) if samples else None,
        "tolerance": tolerance,
        "threads": threads,
        "again": again,
    }
    if run_tool("compile", arguments, as_json=as_json)["made"] is None:
        raise typer.Exit(1)

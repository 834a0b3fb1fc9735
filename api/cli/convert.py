"""`lanefleet convert`: a gguf file, or an old pytorch_model.bin, to what the embedded engine loads.

The work is a program of the worker's, with limits of its own; this shows how far it is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from api.cli.options import JsonFlag
from api.cli.tools import documented, last_shown
from common.errors import ConfigurationError
from common.programs import ProgramFailed, lines_of

_PROGRAM = "worker.models.generation.conversion"
_ROOT = Path(__file__).resolve().parents[2]
_SPARE_MB = 4096
"""Address space for Python and torch beside twice the source."""
_GPU = Path("/dev/nvidia0")


class Precision(StrEnum):
    """How numbers are kept."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class ConversionFailed(ConfigurationError):
    """The source could not be converted; the message says why."""

    code = "conversion_failed"


def convert(
    source: Annotated[
        Path, typer.Argument(help="A .gguf or .bin file, or a folder with pytorch_model.bin.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder to make; it must not exist.")],
    precision: Annotated[
        Precision,
        typer.Option(help="auto is bf16 where there is an NVIDIA GPU, and fp32 elsewhere."),
    ] = Precision.AUTO,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json to take; needed where none is there.")
    ] = None,
    memory_mb: Annotated[
        int | None, typer.Option(min=256, help="Most address space; else as the source needs.")
    ] = None,
    seconds: Annotated[int, typer.Option(min=1, help="Longest it may take.")] = 3600,
    as_json: JsonFlag = False,
) -> None:
    """Convert a model to safetensors that workers load, in a process with limits."""
    target = target.absolute()
    with documented("convert", target, as_json=as_json):
        lines = _lines_of(source, target, precision, tokenizer, memory_mb, seconds)
        found = last_shown(source.name, lines)
    if as_json:
        sys.stdout.write(json.dumps({"tool": "convert", **found}) + "\n")
        return
    by_another = "" if found["made"] else ", made by another process meanwhile"
    Console().print(
        f"{target} is ready{by_another}: name it as `weights:` of a model with `handler: decoder`",
        soft_wrap=True,
    )


def _lines_of(
    source: Path,
    target: Path,
    precision: Precision,
    tokenizer: Path | None,
    memory_mb: int | None,
    seconds: int,
) -> Generator[dict[str, Any]]:
    """What the program says, line by line. Raises ConversionFailed where it fails."""
    if os.path.lexists(target):
        raise ConfigurationError(f"{target} is there already; name a folder that is not")
    if not source.exists():
        raise ConfigurationError(f"there is no {source}")
    chosen = precision
    if precision is Precision.AUTO:
        chosen = Precision.BF16 if _GPU.exists() else Precision.FP32
    memory = memory_mb or _SPARE_MB + 2 * _bytes_of(source) // 2**20
    arguments = [str(source), str(target), "--precision", chosen]
    arguments += ["--memory-mb", str(memory), "--seconds", str(seconds)]
    if tokenizer is not None:
        arguments += ["--tokenizer", str(tokenizer)]
    # Nothing of this environment but where the code is: a file from elsewhere is read there.
    paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PATH": os.defpath, "PYTHONPATH": paths, "LANG": "C.UTF-8"}
    try:
        yield from lines_of(_PROGRAM, arguments, environment)
    except ProgramFailed as exc:
        raise ConversionFailed(str(exc)) from exc


def _bytes_of(source: Path) -> int:
    if source.is_file():
        return source.stat().st_size
    return sum(path.stat().st_size for path in source.glob("*.bin"))

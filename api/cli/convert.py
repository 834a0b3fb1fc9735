"""`lanefleet convert`: a gguf file, or an old pytorch_model.bin, to what the embedded engine loads.

The work is a program of the worker's, with limits of its own; this shows how far it is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from api.cli.options import JsonFlag
from common.errors import ConfigurationError, FleetError

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


class ConversionFailed(FleetError):
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
    if target.exists():
        raise ConfigurationError(f"{target} is there already; name a folder that is not")
    if not source.exists():
        raise ConfigurationError(f"there is no {source}")
    chosen = precision
    if precision is Precision.AUTO:
        chosen = Precision.BF16 if _GPU.exists() else Precision.FP32
    memory = memory_mb or _SPARE_MB + 2 * _bytes_of(source) // 2**20
    command = [sys.executable, "-m", _PROGRAM, str(source), str(target), "--precision", chosen]
    command += ["--memory-mb", str(memory), "--seconds", str(seconds)]
    if tokenizer is not None:
        command += ["--tokenizer", str(tokenizer)]
    lines = _lines_of(command, seconds)
    if as_json:
        _show_as_json(lines)
    else:
        _show(lines, source, target)


def _lines_of(command: list[str], seconds: int) -> Iterator[dict[str, Any]]:
    """What the program says, line by line. Raises ConversionFailed where it fails."""
    # Nothing of this environment but where the code is: a file from elsewhere is read there.
    paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PATH": os.defpath, "PYTHONPATH": paths, "LANG": "C.UTF-8"}
    last: dict[str, Any] = {}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as program:
        assert program.stdout is not None
        try:
            for line in program.stdout:
                last = json.loads(line)
                yield last
        except BaseException:
            program.kill()
            raise
        said = program.stderr.read().strip() if program.stderr is not None else ""
    if program.returncode == -signal.SIGALRM:
        raise ConversionFailed(f"it took longer than {seconds} s; give it more with --seconds")
    if program.returncode or "error" in last:
        reason = last.get("error") or said[-500:] or f"it ended with {program.returncode}"
        raise ConversionFailed(str(reason))


def _show(lines: Iterator[dict[str, Any]], source: Path, target: Path) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task(source.name, total=None)
        for line in lines:
            if "total" in line:
                progress.update(task, total=line["total"], completed=line["done"])
    Console().print(f"{target} is ready: name it as `weights:` of a model with `handler: decoder`")


def _show_as_json(lines: Iterator[dict[str, Any]]) -> None:
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _bytes_of(source: Path) -> int:
    if source.is_file():
        return source.stat().st_size
    return sum(path.stat().st_size for path in source.glob("*.bin"))

"""Converts weights that are no safetensors with their first load, and finds them from then on.

The folder's name has a digest of which file it was made of, so another version of the package is
converted anew; what a killed conversion leaves is not loaded.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import structlog

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.programs import ProgramFailed, outcome_of
from worker.models.weights import converted_base

__all__ = ("ready_folder",)

log = structlog.get_logger(__name__)

_FORMAT = 1
"""Of what conversions make; a new one has them made again."""
_SECONDS = 1800
_SPARE_MB = 4096
"""Address space for Python and torch beside twice the file."""
_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = "worker.models.generation.conversion"
_CONVERTED = (".gguf", ".pth")


def ready_folder(found: Path, spec: ModelSpec) -> Path:
    """The folder to load: `found` itself, or what a gguf or pth file was converted to.

    Raises ConfigurationError with what the conversion says.
    """
    if found.is_dir():
        if _is_pickled(found):
            raise ConfigurationError(
                f"models.{spec.name}.weights: {found} has a pytorch_model.bin only; convert it: "
                f"lanefleet convert {found} FOLDER"
            )
        return found
    if found.suffix not in _CONVERTED:
        raise ConfigurationError(
            f"models.{spec.name}.weights: {found} is neither a folder with model.safetensors nor a "
            f"file that is converted ({', '.join(_CONVERTED)})"
        )
    state = found.stat()
    facts = f"{_FORMAT} {state.st_size} {state.st_mtime_ns} {spec.precision}"
    digest = hashlib.sha256(f"{found.resolve()} {facts}".encode()).hexdigest()[:12]
    target = converted_base() / f"{found.stem}-{digest}"
    if not target.is_dir():
        log.info("conversion_started", model=spec.name, source=str(found), folder=str(target))
        _convert(found, target, spec)
        log.info("conversion_completed", model=spec.name, folder=str(target))
    return target


def _is_pickled(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return "pytorch_model.bin" in names and "model.safetensors" not in names


def _convert(source: Path, target: Path, spec: ModelSpec) -> None:
    memory_mb = _SPARE_MB + 2 * source.stat().st_size // 2**20
    limits = ("--memory-mb", str(memory_mb), "--seconds", str(_SECONDS))
    arguments = (str(source), str(target), *limits, "--precision", spec.precision)
    # Nothing of this environment but where the code is: a file from elsewhere is read there.
    environment = {"PATH": os.defpath, "PYTHONPATH": str(_ROOT), "LANG": "C.UTF-8"}
    try:
        outcome_of(_PROGRAM, arguments, environment)
    except ProgramFailed as exc:
        raise ConfigurationError(
            f"models.{spec.name}.weights: {source} could not be converted: {exc}"
        ) from exc

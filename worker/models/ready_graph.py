"""The ONNX file of a catalog entry whose weights may still be torch's.

With `backend: onnx` or `openvino` such weights are exported at the first load, by a process of
their own (tracing takes torch, seconds and memory that the worker need not keep), into the state
folder; later loads take what is there. The folder's name has a digest of what it was made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from common.programs import ProgramFailed, outcome_of
from worker.models.facts import GRAPH
from worker.models.sessions.session import check_precision
from worker.models.weights import RANDOM, converted_base, find_weights

__all__ = ("ready_graph", "runs_graphs")

log = structlog.get_logger(__name__)

_FORMAT = 1
"""Of what exports make; a new one has them made again."""


def runs_graphs(spec: ModelSpec) -> bool:
    """Whether the entry's backend runs ONNX files, for a handler whose own is torch.

    Raises ConfigurationError for what torch alone cannot do.
    """
    if spec.backend in ("onnx", "openvino"):
        return True
    if spec.precision == "int8":
        raise ConfigurationError(
            f"models.{spec.name}.precision: int8 does not run on torch here; set backend: onnx or "
            f"openvino, with weights from: lanefleet quantize {spec.name} FOLDER"
        )
    if spec.providers:
        raise ConfigurationError(
            f"models.{spec.name}.providers: they are ONNX Runtime's; set backend: onnx"
        )
    return False


def ready_graph(spec: ModelSpec) -> Path:
    """The file to open: of the weights' folder, or made of what is there.

    Raises ConfigurationError with what the export says.
    """
    found = None if spec.weights == RANDOM else find_weights(spec.weights)
    if found is not None:
        graph = found / GRAPH if found.is_dir() else found
        if graph.is_file() and graph.suffix == ".onnx":
            return graph
    check_precision(spec, found or Path(RANDOM))
    target = converted_base() / f"{spec.handler.rpartition(':')[2]}-{_digest(spec, found)}-onnx"
    if not target.is_dir():
        log.info("export_started", model=spec.name, source=spec.weights, folder=str(target))
        _export(spec, found, target)
        log.info("export_completed", model=spec.name, folder=str(target))
    return target / GRAPH


def _digest(spec: ModelSpec, found: Path | None) -> str:
    """Of what determines the graph, as far as names, sizes and times of files tell it."""
    parts = [str(_FORMAT), _own_version(), spec.handler, spec.weights]
    parts.append(json.dumps(spec.options, sort_keys=True, default=str))
    module = sys.modules.get(spec.handler_path.partition(":")[0])
    files = [Path(file)] if (file := getattr(module, "__file__", None)) else []
    if found is not None:
        files += sorted(found.rglob("*")) if found.is_dir() else [found]
    for path in files:
        state = path.stat()
        if path.is_file():
            parts.append(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _own_version() -> str:
    try:
        return version("lanefleet")
    except PackageNotFoundError:
        return ""


def _export(spec: ModelSpec, found: Path | None, target: Path) -> None:
    keys = spec.model_dump(mode="json", exclude_unset=True, exclude={"samples", "tolerance"})
    if found is not None:
        keys["weights"] = str(found.absolute())
    arguments = json.dumps({"spec": keys, "target": str(target)})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        outcome_of("worker.tools", ("export", arguments), environment)
    except ProgramFailed as exc:
        raise ConfigurationError(
            f"models.{spec.name}.weights: {spec.weights} could not be exported for backend "
            f"{spec.backend}: {exc}"
        ) from exc

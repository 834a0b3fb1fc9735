"""ONNX files on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from numpy.typing import NDArray

from common.errors import ConfigurationError
from worker.devices.gpu_memory import session_limit_bytes
from worker.devices.nvml import gpu_name
from worker.devices.torch_setup import math_threads
from worker.models.facts import content_digest
from worker.models.sessions.providers import (
    CUDA,
    TENSORRT,
    Machine,
    Shapes,
    chosen,
    engine_folder,
    options_of,
)
from worker.models.sessions.session import Port, cannot_open, failed
from worker.models.weights import state_folder

__all__ = ("OnnxSession",)

log = structlog.get_logger(__name__)

_DTYPES = {"float": "float32", "double": "float64"}


class OnnxSession:
    """A session of ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        *,
        device: str,
        providers: Sequence[str],
        threads: int | None,
        shapes: Shapes,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise ConfigurationError(f"{exc}; install it with: pip install '.[onnx]'") from exc
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or math_threads()
        machine = Machine(
            tuple(onnxruntime.get_available_providers()), device, session_limit_bytes(device)
        )
        names = chosen(providers, machine)
        if device.startswith("cuda") and CUDA not in machine.available:
            log.warning("cuda_provider_missing", remedy="pip install onnxruntime-gpu")
        ports: tuple[Port, ...] = ()
        engines = Path()
        try:
            if TENSORRT in names:
                ports = _inputs_of(onnxruntime, path)
                engines = _engines(onnxruntime, path, device, shapes)
            wanted = options_of(names, machine, shapes, ports, engines)
            self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as exc:
            raise cannot_open("ONNX Runtime", path, exc) from exc
        _check_loaded(names, self._session.get_providers(), machine)
        self._path = path
        self.backend = f"onnx:{self._session.get_providers()[0]}"
        self.inputs = tuple(_port(one) for one in self._session.get_inputs())
        self.outputs = tuple(_port(one) for one in self._session.get_outputs())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs in their order."""
        try:
            found: list[NDArray[Any]] = self._session.run(None, dict(feeds))
        except Exception as exc:
            raise failed(self._path, self.inputs, feeds, exc) from exc
        return found


def _check_loaded(names: Sequence[str], loaded: Sequence[str], machine: Machine) -> None:
    """ONNX Runtime only logs that a provider's libraries are missing, and takes the next one."""
    lacking = [name for name in names if name not in loaded]
    if lacking:
        raise ConfigurationError(
            f"providers: {lacking[0]} could not be loaded on this machine, only "
            f"{', '.join(loaded)}; the log above names the library that it lacks; install it, or "
            f"take {lacking[0]} out of `providers` (this ONNX Runtime has "
            f"{', '.join(machine.available)})"
        )


def _inputs_of(onnxruntime: Any, path: Path) -> tuple[Port, ...]:
    """The file's inputs, read by the CPU's provider without preparing anything."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return tuple(_port(one) for one in plain.get_inputs())


def _engines(onnxruntime: Any, path: Path, device: str, shapes: Shapes) -> Path:
    base, gpu = state_folder("engines"), gpu_name(device)
    folder = engine_folder(base, content_digest(path), gpu, onnxruntime.__version__, shapes)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _port(one: Any) -> Port:
    kind = one.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else None for side in one.shape)
    return Port(one.name, _DTYPES.get(kind, kind), shape)

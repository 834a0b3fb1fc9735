"""ONNX files on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.errors import ConfigurationError
from worker.devices.torch_setup import math_threads
from worker.models.sessions.session import Port

_DTYPES = {"float": "float32", "double": "float64"}


class OnnxSession:
    """A session of ONNX Runtime."""

    def __init__(
        self, path: Path, *, device: str, providers: Sequence[str], threads: int | None
    ) -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise ConfigurationError(f"{exc}; install it with: pip install '.[onnx]'") from exc
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or math_threads()
        wanted = list(providers) or _providers_of(device)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as exc:
            raise ConfigurationError(f"ONNX Runtime cannot open {path}: {exc}") from exc
        self.backend = f"onnx:{self._session.get_providers()[0]}"
        self.inputs = tuple(_port(one) for one in self._session.get_inputs())
        self.outputs = tuple(_port(one) for one in self._session.get_outputs())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs in their order."""
        found: list[NDArray[Any]] = self._session.run(None, dict(feeds))
        return found


def _providers_of(device: str) -> list[str]:
    on_gpu = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    return [*on_gpu, "CPUExecutionProvider"]


def _port(one: Any) -> Port:
    kind = one.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else None for side in one.shape)
    return Port(one.name, _DTYPES.get(kind, kind), shape)

"""ONNX files on OpenVINO, which reads them itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.errors import ConfigurationError
from worker.devices.torch_setup import math_threads
from worker.models.sessions.session import Port, cannot_open, failed


class OpenVinoSession:
    """A compiled model of OpenVINO, on the CPU."""

    backend = "openvino:CPU"

    def __init__(self, path: Path, *, device: str, threads: int | None) -> None:
        if device != "cpu":
            raise ConfigurationError(
                f"backend: openvino runs on a CPU here, not on {device}; choose onnx or torch"
            )
        try:
            import openvino
        except ImportError as exc:
            raise ConfigurationError(f"{exc}; install it with: pip install '.[openvino]'") from exc
        limits = {
            "INFERENCE_NUM_THREADS": threads or math_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self._model = openvino.Core().compile_model(str(path), "CPU", limits)
        except Exception as exc:
            raise cannot_open("OpenVINO", path, exc) from exc
        self._path = path
        self.inputs = tuple(_port(one) for one in self._model.inputs)
        self.outputs = tuple(_port(one) for one in self._model.outputs)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs in their order."""
        try:
            found = self._model(dict(feeds))
        except Exception as exc:
            raise failed(self._path, self.inputs, feeds, exc) from exc
        return [found[one] for one in self._model.outputs]


def _port(one: Any) -> Port:
    shape = tuple(side.get_length() if side.is_static else None for side in one.partial_shape)
    return Port(one.any_name, one.element_type.to_dtype().name, shape)

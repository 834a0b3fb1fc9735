"""One interface for whatever runs an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from common.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, its numpy dtype's name, its shape with None where it varies."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Session(Protocol):
    """A network that is ready to run; calls come from one thread at a time."""

    backend: str
    """As `onnx:CPUExecutionProvider` or `openvino:CPU`, for results and reports."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs in their order."""


def open_session(
    path: Path,
    *,
    backend: str = "onnx",
    device: str = "cpu",
    providers: Sequence[str] = (),
    threads: int | None = None,
) -> Session:
    """Open an ONNX file. Raises ConfigurationError with what to install or change."""
    if backend == "openvino":
        from worker.models.sessions.openvino import OpenVinoSession

        return OpenVinoSession(path, device=device, threads=threads)
    if backend != "onnx":
        raise ConfigurationError(f"backend {backend!r} does not run {path}; choose onnx, openvino")
    from worker.models.sessions.onnx import OnnxSession

    return OnnxSession(path, device=device, providers=providers, threads=threads)

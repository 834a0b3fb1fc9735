"""One interface for whatever runs an ONNX file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InferenceFailed
from worker.models.facts import GRAPH, read_facts

_SAID_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, its numpy dtype's name, its shape with None where it varies."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sides = " x ".join("any" if side is None else str(side) for side in self.shape)
        return f"{self.name} ({self.dtype}, {sides or 'a number'})"


class Session(Protocol):
    """A network that is ready to run; calls come from one thread at a time."""

    backend: str
    """As `onnx:CPUExecutionProvider` or `openvino:CPU`, for results and reports."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs in their order. Raises InferenceFailed."""


def open_session(
    path: Path,
    *,
    backend: str = "onnx",
    device: str = "cpu",
    providers: Sequence[str] = (),
    threads: int | None = None,
    precision: str = "fp32",
    max_batch: int = 1,
    longest: int | None = None,
) -> Session:
    """Open an ONNX file. Raises ConfigurationError with what to install or change.

    precision, max_batch and longest (the most of every axis that varies but the batch) are for
    TensorRT, which builds an engine for them.
    """
    if backend == "openvino":
        from worker.models.sessions.openvino import OpenVinoSession

        if providers:
            raise ConfigurationError(
                f"providers: {', '.join(providers)} are ONNX Runtime's; take the key out, or set "
                "backend: onnx"
            )
        return OpenVinoSession(path, device=device, threads=threads)
    if backend != "onnx":
        raise ConfigurationError(f"backend {backend!r} does not run {path}; choose onnx, openvino")
    from worker.models.sessions.onnx import OnnxSession
    from worker.models.sessions.providers import Shapes

    shapes = Shapes(precision, max_batch, longest)
    return OnnxSession(path, device=device, providers=providers, threads=threads, shapes=shapes)


def session_for(spec: ModelSpec, path: Path, device: str, *, longest: int | None = None) -> Session:
    """The session of a catalog entry. options: threads.

    Raises ConfigurationError where the file has not the precision that the catalog says.
    """
    check_precision(spec, path)
    return open_session(
        path,
        backend=spec.backend or "onnx",
        device=device,
        providers=spec.providers,
        threads=int(spec.options.get("threads") or 0) or None,
        precision=spec.precision,
        max_batch=spec.max_batch,
        longest=longest,
    )


def check_precision(spec: ModelSpec, path: Path) -> None:
    facts = read_facts(path.parent)
    made = facts.precision if facts is not None and path.name == GRAPH else None
    by_tensorrt = "tensorrt" in (spec.providers[0].lower() if spec.providers else "")
    backend = spec.backend or "onnx"
    if spec.precision == "int8" and made != "int8":
        raise ConfigurationError(
            f"models.{spec.name}.precision: int8 needs weights that were quantized, and {path} was "
            f"not; make some: lanefleet quantize {spec.name} FOLDER, and name FOLDER as `weights`"
        )
    if made == "int8" and spec.precision != "int8":
        raise ConfigurationError(
            f"models.{spec.name}.precision: {path} was quantized; say `precision: int8`, or name "
            "the weights that it was made of"
        )
    if spec.precision == "bf16" or (spec.precision == "fp16" and not by_tensorrt):
        raise ConfigurationError(
            f"models.{spec.name}.precision: backend {backend} runs fp32 and int8, not "
            f"{spec.precision}; set backend: torch"
            + (", or `providers: [tensorrt]`" if spec.precision == "fp16" else "")
        )


def check_ports(
    model: str, path: Path, session: Session, inputs: Collection[str], outputs: Collection[str]
) -> None:
    """Refuse a file whose inputs are not these, or that lacks one of these outputs."""
    for kind, ports, wanted, fits in (
        ("inputs", session.inputs, inputs, set(inputs).__eq__),
        ("outputs", session.outputs, outputs, set(outputs).issubset),
    ):
        names = [port.name for port in ports]
        if not fits(set(names)):
            raise ConfigurationError(
                f"models.{model}: {path} has the {kind} {', '.join(map(str, ports))}, and the "
                f"catalog's are {', '.join(wanted) or 'none'}; name the file's own, or export it "
                "again: lanefleet export"
            )


def cannot_open(library: str, path: Path, error: Exception) -> ConfigurationError:
    """What to raise for a file that the library refuses."""
    if not path.is_file():
        return ConfigurationError(f"weights: there is no file {path}; name an .onnx file")
    return ConfigurationError(
        f"weights: {library} cannot open {path} ({_sentence(error)}); it must be an ONNX file that "
        "this version of it knows; make it again: lanefleet export"
    )


def failed(
    path: Path, ports: Sequence[Port], feeds: Mapping[str, NDArray[Any]], error: Exception
) -> InferenceFailed:
    """What to raise for a run that failed: what came, and what the file takes."""
    came = ", ".join(f"{name} {one.dtype} {list(one.shape)}" for name, one in feeds.items())
    takes = ", ".join(map(str, ports))
    return InferenceFailed(f"{path} takes {takes}; it got {came}: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:_SAID_CHARACTERS] or repr(error)

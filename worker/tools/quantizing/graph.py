"""Quantizes an ONNX file with ONNX Runtime's tools: all of it, or all but some layers.

Static: activations have ranges that were measured on samples, and the graph has QDQ pairs, which
ONNX Runtime and OpenVINO both compile to int8. Dynamic: ranges are measured in each run, which
suits transformers, whose activations vary with the text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.errors import ConfigurationError

__all__ = ("Calibration", "Graph", "Method", "layers_of")

Feeds = Mapping[str, NDArray[Any]]
_MOST_BYTES = 1_900_000_000
_WITH_WEIGHTS = {"Conv": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}
"""The operators that hold most of a network, and which input is their weights."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to quantize."""

    static: bool
    weights: str = "int8"
    """int8, or uint8, which processors without VNNI do not saturate on."""
    per_channel: bool = True

    def __str__(self) -> str:
        kind = "static" if self.static else "dynamic"
        return f"{kind}, {self.weights}{' per channel' if self.per_channel else ''}"


@dataclass(slots=True)
class Calibration:
    """Inputs by which static ranges are measured, for so many seconds at most."""

    feeds: Sequence[Feeds]
    seconds: float
    clock: Callable[[], float] = time.monotonic
    read: int = 0
    """How many of them were."""

    def notes(self) -> list[str]:
        """For the report, where time was up before all were read."""
        if self.read == len(self.feeds):
            return []
        said = f"ranges by {self.read} of {len(self.feeds)} inputs"
        return [f"{said}: LANEFLEET_CALIBRATION_SECONDS had passed"]


class Graph:
    """An fp32 file, and what its quantisations need."""

    def __init__(self, path: Path, scratch: Path, calibration: Calibration | None) -> None:
        """calibration: inputs for static ranges, which are measured once and kept in scratch.

        None is for dynamic ones.
        """
        self._path = path if calibration is not None else _without_gemm(path, scratch)
        self._scratch = scratch
        self._calibration = calibration
        self.layers = layers_of(self._path)

    def quantize(self, target: Path, method: Method, kept: frozenset[str]) -> None:
        """Write it with these layers in fp32. Raises ConfigurationError where that fails."""
        from onnxruntime import quantization as ort

        kinds = {"int8": ort.QuantType.QInt8, "uint8": ort.QuantType.QUInt8}
        common = {
            "per_channel": method.per_channel,
            "weight_type": kinds[method.weights],
            "nodes_to_exclude": sorted(kept),
        }
        logger, level = logging.getLogger(), logging.getLogger().level
        logger.setLevel(logging.ERROR)  # it recommends what was done already
        try:
            if method.static and self._calibration is not None:
                ort.quantize_static(
                    self._path,
                    target,
                    _Reader(self._calibration),
                    activation_type=ort.QuantType.QUInt8,
                    calibration_cache_path=self._scratch / "ranges.json",
                    **common,
                )
            else:
                ort.quantize_dynamic(self._path, target, **common)
        except OSError:
            raise
        except Exception as exc:
            said = " ".join(str(exc).split())[:300] or type(exc).__name__
            raise ConfigurationError(f"{self._path} cannot be quantized {method}: {said}") from exc
        finally:
            logger.setLevel(level)


class _Reader:
    """Hands out inputs one by one, as ONNX Runtime's calibration asks for them, for so long."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._left: Iterator[Feeds] = iter(calibration.feeds)
        self._until = calibration.clock() + calibration.seconds

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next one; None at the end."""
        late = self._calibration.read and self._calibration.clock() > self._until
        found = None if late else next(self._left, None)
        if found is None:
            return None
        self._calibration.read += 1
        return dict(found)


def _without_gemm(path: Path, scratch: Path) -> Path:
    """The same with each Gemm as a product and a sum.

    A dynamic quantisation does so first, under other names, and then keeps none of those in fp32
    that it was asked to.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(_opened(path))
    model.replace_gemm_with_matmul()
    target = scratch / "base.onnx"
    onnx.save(model.model, str(target))
    return target


def _opened(path: Path) -> Any:
    import onnx

    beside = path.parent.glob(f"{path.name}*")
    if sum(one.stat().st_size for one in beside) > _MOST_BYTES:
        raise ConfigurationError(
            f"{path} and what lies beside it are more than 2 GB, which a graph in one file cannot "
            "hold; quantize it where it was trained, and name that as `weights`"
        )

    try:
        return onnx.load(str(path))
    except Exception as exc:
        raise ConfigurationError(f"{path} is no ONNX file: {exc}") from exc


def layers_of(path: Path) -> list[tuple[str, str]]:
    """Layers with weights, in order: name, and operator with the weights' shape."""
    graph = _opened(path).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    found = []
    for node in graph.node:
        place = _WITH_WEIGHTS.get(node.op_type)
        if place is None or len(node.input) <= place:
            continue
        shape = shapes.get(node.input[place])
        if shape is not None and len(shape) > 1:
            found.append((node.name, f"{node.op_type} {'x'.join(map(str, shape))}"))
    if not found:
        raise ConfigurationError(f"{path} has no layers with weights, so nothing to quantize")
    return found

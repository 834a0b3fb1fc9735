"""Inputs and outputs of a model in Triton: what the server says of them, and values as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigurationError, InvalidInput
from worker.models.base import Json

__all__ = ("Port", "Ports", "as_array", "as_json", "check_against")

_TEXT, _BYTE = "BYTES", "UINT8"


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of one item: its type in Triton's words, its shape with -1 where it
    varies.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.datatype} {list(self.shape)})"


@dataclass(frozen=True, slots=True)
class Ports:
    """All of a model."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch: int
    """0 where the model takes one item a request."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> Ports:
        """From the server's metadata and the model's configuration, as JSON."""
        most = int(config.get("max_batch_size", 0))
        skip = 1 if most else 0
        inputs, outputs = (
            tuple(
                Port(one["name"], one["datatype"], tuple(map(int, one.get("shape", ())))[skip:])
                for one in metadata.get(side, ())
            )
            for side in ("inputs", "outputs")
        )
        return cls(inputs, outputs, most)


def check_against(model: str, where: str, ports: Sequence[Port], wanted: object) -> None:
    """Compare with the catalog's `{name: {datatype, shape}}`, each part optional.

    Raises ConfigurationError that names both.
    """
    if wanted is None:
        return
    found = {port.name: port for port in ports}
    parts = wanted if isinstance(wanted, Mapping) else dict.fromkeys(_list(wanted))
    for name, part in parts.items():
        port, about = found.get(str(name)), dict(part or {})
        same = (
            port is not None
            and about.get("datatype", port.datatype) == port.datatype
            and list(about.get("shape", port.shape)) == list(port.shape)
        )
        if not same:
            raise ConfigurationError(
                f"models.{model}.options.{where}: the catalog wants {name} {about or ''}, and the "
                f"server's model has {', '.join(map(str, ports)) or 'none'}"
            )


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def as_array(port: Port, value: Any) -> NDArray[Any]:
    """One item's value for this input, without the batch. Raises InvalidInput."""
    from tritonclient.utils import triton_to_np_dtype

    if isinstance(value, bytes):
        return _of_bytes(port, value)
    kind = triton_to_np_dtype(port.datatype)
    try:
        if port.datatype == _TEXT:
            array = np.array(_encoded(value), dtype=object)
        else:
            array = _numbers(value, np.dtype(kind))
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidInput(f"input {port.name!r} must be {port.datatype} numbers: {exc}") from exc
    if array.ndim == 0 and len(port.shape) == 1:
        array = array.reshape(1)
    fits = array.ndim == len(port.shape) and all(
        want in (-1, have) for want, have in zip(port.shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"input {port.name!r} must have the shape {list(port.shape)} (-1 is any), not "
            f"{list(array.shape)}"
        )
    return array


def _numbers(value: Any, kind: np.dtype[Any]) -> NDArray[Any]:
    """numpy alone makes NaN of null, 1 of 1.5 and numbers of texts."""
    raw = np.array(value)
    fraction = raw.dtype.kind == "f" and kind.kind in "iub" and bool((raw % 1 != 0).any())
    if raw.size and (raw.dtype.kind not in "biuf" or fraction):
        raise TypeError(f"{str(value)[:60]!r} is something else")
    return np.array(value, dtype=kind)


def _of_bytes(port: Port, value: bytes) -> NDArray[Any]:
    if port.datatype == _BYTE:
        return np.frombuffer(value, np.uint8)
    return np.array([value], dtype=object)


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(one) for one in value]
    if not isinstance(value, str):
        raise TypeError(f"texts are wanted, not {type(value).__name__}")
    return value.encode("utf-8", "surrogatepass")


def as_json(array: NDArray[Any]) -> Json:
    """An output of one item as JSON; bytes that are no UTF-8 have their odd ones replaced."""
    if array.dtype == object or array.dtype.kind == "S":
        return np.vectorize(_decoded, otypes=[object])(array).tolist()
    return array.tolist()


def _decoded(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

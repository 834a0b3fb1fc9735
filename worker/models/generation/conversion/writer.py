"""Writes safetensors a tensor at a time.

A tensor is made when its turn comes, so memory holds one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.models.generation.conversion.errors import NotConverted

__all__ = ("Precision", "Source", "write_json", "write_tensors")

Precision = Literal["fp32", "bf16", "fp16"]
_KINDS = {"fp32": ("F32", 4), "bf16": ("BF16", 2), "fp16": ("F16", 2)}
_PART_NUMBERS = 1 << 22


class Source(NamedTuple):
    """A tensor to be."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.float32]]


def write_json(path: Path, value: Any) -> None:
    """For people to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(
    path: Path,
    sources: Sequence[Source],
    precision: Precision,
    on_bytes: Callable[[int], None],
) -> None:
    """A safetensors file; on_bytes is told of every part that was written."""
    kind, size = _KINDS[precision]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape, _ in sources:
        end = at + prod(shape) * size
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for source in sources:
            _write(file, source, precision, on_bytes)


def _write(
    file: BinaryIO, source: Source, precision: Precision, on_bytes: Callable[[int], None]
) -> None:
    numbers = source.read()
    if numbers.shape != source.shape:
        raise NotConverted(f"{source.name} has the shape {numbers.shape}, not {source.shape}")
    flat = numbers.reshape(-1)
    for first in range(0, len(flat), _PART_NUMBERS):
        part = _packed(flat[first : first + _PART_NUMBERS], precision)
        file.write(part)
        on_bytes(len(part))


def _packed(numbers: NDArray[np.float32], precision: Precision) -> bytes:
    if precision == "fp32":
        return bytes(numbers.astype("<f4").data)
    if precision == "fp16":
        return bytes(numbers.astype("<f2").data)
    bits = numbers.astype("<f4").view(np.uint32)
    even = (bits >> 16) & 1  # to the nearest, and of two such to the even one
    return bytes(((bits + 0x7FFF + even) >> 16).astype("<u2").data)

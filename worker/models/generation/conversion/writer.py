"""Writes a folder that is there whole or not at all, and safetensors a tensor at a time.

Everything goes to a folder beside the final one, whose name begins with a dot and which nothing
loads; it takes the final name by one rename, after what it holds has reached the disk. A tensor is
made when its turn comes, so memory holds one of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.models.generation.conversion.errors import NotConverted

__all__ = ("Precision", "Source", "new_folder", "write_json", "write_tensors")

Precision = Literal["fp32", "bf16", "fp16"]
_KINDS = {"fp32": ("F32", 4), "bf16": ("BF16", 2), "fp16": ("F16", 2)}
_PART_NUMBERS = 1 << 22


class Source(NamedTuple):
    """A tensor to be."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.float32]]


@contextmanager
def new_folder(target: Path) -> Iterator[Path | None]:
    """A folder to fill, which becomes `target` in the end; None where another process made it.

    One process at a time: a second waits for the first. What a killed one left is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial"
    with (target.parent / f".{target.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            yield None
            return
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            for path in partial.iterdir():
                _to_disk(path)
            _to_disk(partial)
            partial.rename(target)
            _to_disk(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


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


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Reads gguf files: named facts, and named tensors in blocks of ggml's formats.

The file is mapped, and a tensor is dequantised when it is asked for. Lengths come from the file
and are checked against its size before they are believed.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.models.generation.conversion.dequantise import FORMATS, Format
from worker.models.generation.conversion.errors import NotConverted

__all__ = ("Gguf", "TensorInfo", "read_gguf")

_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
"""By gguf's number of a value's type."""
_TEXT, _LIST = 8, 9
_MAX_DIMENSIONS = 4
_CHUNK_BLOCKS = 1 << 18


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies, and what it is."""

    shape: tuple[int, ...]
    """The outermost dimension first."""
    format: Format
    begin: int
    bytes: int


class _Reader:
    """Values from the beginning of the file on."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self.at = 0

    def take(self, size: int) -> bytes:
        """That many bytes."""
        if size < 0 or self.at + size > len(self._content):
            raise NotConverted("the file ends within its header; it is damaged or not complete")
        found = self._content[self.at : self.at + size]
        self.at += size
        return found

    def number(self, form: str) -> Any:
        """One number of struct's form."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        """Its length in 8 bytes, then UTF-8."""
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A number, a text, or a list of one of them."""
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return self.number(_form_of(kind))
        inner, count = self.number("<I"), self.number("<Q")
        if inner == _LIST or count > len(self._content):
            raise NotConverted("the header has a list that cannot be right; the file is damaged")
        if inner == _TEXT:
            return [self.text() for _ in range(count)]
        form = _form_of(inner)
        size = struct.calcsize(form)
        return list(struct.unpack(f"<{count}{form[1]}", self.take(count * size)))


class Gguf:
    """An open file."""

    def __init__(
        self, content: mmap.mmap, facts: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
    ) -> None:
        self._content = content
        self.facts = facts
        self.tensors = tensors

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor, dequantised."""
        info = self.tensors[name]
        kind = info.format
        raw = np.frombuffer(self._content, np.uint8, info.bytes, info.begin)
        blocks = raw.reshape(-1, kind.block_bytes)
        numbers = np.empty((len(blocks), kind.block_numbers), np.float32)
        # In parts, so that what is made meanwhile stays small.
        for first in range(0, len(blocks), _CHUNK_BLOCKS):
            part = slice(first, first + _CHUNK_BLOCKS)
            numbers[part] = kind.read(blocks[part])
        return numbers.reshape(info.shape)


def read_gguf(path: Path) -> Gguf:
    """Raises NotConverted for what is no gguf, is damaged, or has formats that are not read."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise NotConverted(f"{path} is empty")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = _Reader(content)
    if reader.take(4) != b"GGUF":
        raise NotConverted(f"{path} is no gguf file")
    version = reader.number("<I")
    if version not in (2, 3):
        raise NotConverted(f"{path} is a gguf of version {version}; 2 and 3 are read")
    tensor_count, fact_count = reader.number("<Q"), reader.number("<Q")
    facts: dict[str, Any] = {}
    for _ in range(fact_count):
        name = reader.text()
        facts[name] = reader.value(reader.number("<I"))
    described = [_described(reader) for _ in range(tensor_count)]
    alignment = int(facts.get("general.alignment", 32)) or 32
    begin = -(-reader.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in described:
        tensors[name] = _placed(name, shape, kind, begin + offset, len(content))
    return Gguf(content, facts, tensors)


def _described(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = reader.text(), reader.number("<I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise NotConverted(f"the tensor {name[:80]!r} has {dimensions} dimensions")
    inner_first = [reader.number("<Q") for _ in range(dimensions)]
    kind, offset = reader.number("<I"), reader.number("<Q")
    return name, tuple(reversed(inner_first)), kind, offset


def _placed(name: str, shape: tuple[int, ...], kind: int, begin: int, size: int) -> TensorInfo:
    if kind not in FORMATS:
        known = ", ".join(one.name for one in FORMATS.values())
        raise NotConverted(f"the tensor {name} has ggml's type {kind}; these are read: {known}")
    form, count = FORMATS[kind], prod(shape)
    if count <= 0 or shape[-1] % form.block_numbers:
        raise NotConverted(f"the tensor {name} of {shape} cannot be made of {form.name} blocks")
    needed = count // form.block_numbers * form.block_bytes
    if begin + needed > size:
        raise NotConverted("the file ends within its tensors; it is not complete")
    return TensorInfo(shape, form, begin, needed)


def _form_of(kind: int) -> str:
    if kind not in _NUMBERS:
        raise NotConverted(f"the header has a value of the unknown type {kind}")
    return _NUMBERS[kind]

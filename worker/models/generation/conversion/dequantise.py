"""Blocks of quantised numbers to float32: the formats that gguf files mostly have.

A format packs 32 numbers (or 256, the ones with a K) into a block of bytes: a scale, perhaps an
offset, and the numbers as 4 to 8 bits. Each function takes blocks x bytes, and gives blocks x
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ("FORMATS", "Format")

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float32]


class Format(NamedTuple):
    """One of ggml's types."""

    name: str
    block_numbers: int
    block_bytes: int
    read: Callable[[Bytes], Numbers]


def _halves(blocks: Bytes, at: int) -> Numbers:
    """A float16 of each block, as a column."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """First the low ones, then the high ones."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """32 bits of each block, each worth 16."""
    bits: Bytes = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    return bits * np.uint8(16)


def _f32(blocks: Bytes) -> Numbers:
    return np.ascontiguousarray(blocks).view("<f4").astype(np.float32)


def _f16(blocks: Bytes) -> Numbers:
    return np.ascontiguousarray(blocks).view("<f2").astype(np.float32)


def _bf16(blocks: Bytes) -> Numbers:
    return (np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Numbers:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Numbers:
    return _halves(blocks, 0) * _nibbles(blocks[:, 4:]) + _halves(blocks, 2)


def _q5_0(blocks: Bytes) -> Numbers:
    numbers = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _halves(blocks, 0) * (numbers.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Numbers:
    numbers = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _halves(blocks, 0) * numbers + _halves(blocks, 2)


def _q8_0(blocks: Bytes) -> Numbers:
    return _halves(blocks, 0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)


def _scales_of_k(packed: Bytes) -> tuple[Numbers, Numbers]:
    """Eight scales and eight offsets of 6 bits each, of 12 bytes."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    offsets = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales.astype(np.float32), offsets.astype(np.float32)


def _scaled_k(blocks: Bytes, numbers: Bytes) -> Numbers:
    """numbers: blocks x 8 x 32."""
    scales, offsets = _scales_of_k(blocks[:, 4:16])
    scales, offsets = scales * _halves(blocks, 0), offsets * _halves(blocks, 2)
    found = scales[:, :, None] * numbers - offsets[:, :, None]
    return found.reshape(len(blocks), 256)


def _nibbles_of_k(packed: Bytes) -> Bytes:
    """Of each 32 bytes the low ones, then the high ones: blocks x 8 x 32."""
    groups = packed.reshape(len(packed), 4, 1, 32)
    return np.concatenate([groups & 0x0F, groups >> 4], axis=2).reshape(len(packed), 8, 32)


def _q4_k(blocks: Bytes) -> Numbers:
    return _scaled_k(blocks, _nibbles_of_k(blocks[:, 16:]))


def _q5_k(blocks: Bytes) -> Numbers:
    high = blocks[:, 16:48].reshape(len(blocks), 1, 32)
    bit: Bytes = (high >> np.arange(8, dtype=np.uint8)[None, :, None]) & np.uint8(1)
    return _scaled_k(blocks, _nibbles_of_k(blocks[:, 48:]) | (bit * np.uint8(16)))


def _q6_k(blocks: Bytes) -> Numbers:
    count = len(blocks)
    low = blocks[:, :128].reshape(count, 2, 1, 64)
    low = np.concatenate([low & 0x0F, low >> 4], axis=2).reshape(count, 2, 4, 32)
    packed = blocks[:, 128:192].reshape(count, 2, 1, 32)
    high: Bytes = (packed >> np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]) & np.uint8(3)
    numbers = (low | (high * np.uint8(16))).astype(np.float32) - 32
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    scales = scales * _halves(blocks, 208)
    return (numbers.reshape(count, 16, 16) * scales[:, :, None]).reshape(count, 256)


FORMATS: Mapping[int, Format] = {
    0: Format("F32", 1, 4, _f32),
    1: Format("F16", 1, 2, _f16),
    2: Format("Q4_0", 32, 18, _q4_0),
    3: Format("Q4_1", 32, 20, _q4_1),
    6: Format("Q5_0", 32, 22, _q5_0),
    7: Format("Q5_1", 32, 24, _q5_1),
    8: Format("Q8_0", 32, 34, _q8_0),
    12: Format("Q4_K", 256, 144, _q4_k),
    13: Format("Q5_K", 256, 176, _q5_k),
    14: Format("Q6_K", 256, 210, _q6_k),
    30: Format("BF16", 1, 2, _bf16),
}
"""By ggml's number of the type."""

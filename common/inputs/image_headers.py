"""Reads an image's size from its header, before anything is queued or decoded.

A few bytes can declare gigabytes of pixels, so the front checks the size here first and the
worker checks it again with its own reader. Hand-written, since the front has no imaging
library, and pure. Headers that cannot be read here are left to the worker.
"""

from __future__ import annotations

from struct import error as StructError
from struct import unpack_from

__all__ = ("MAX_FRAMES", "MAX_PIXELS", "frames_beyond", "size_of")

MAX_PIXELS = 50_000_000
"""Most pixels (width times height) of an image that a worker decodes."""
MAX_FRAMES = 1_000
"""Most frames of an animation, of which only the first is decoded."""

_MAX_STEPS = 100_000
"""Most blocks or segments read in one file, which bounds the reader's time."""
_MAX_SUB_BLOCKS = 250_000
"""Most sub-blocks of a GIF, of 255 bytes in all sane ones: 20 ms; one-byte blocks took 1 s."""
_PLAIN_MARKERS = frozenset((0x01, *range(0xD0, 0xDA)))
"""JPEG markers without a length."""
_NOT_FRAMES = frozenset((0xC4, 0xC8, 0xCC))
"""Markers of the range C0 to CF that begin tables instead of a frame."""


def size_of(payload: bytes, media_type: str) -> tuple[int, int] | None:
    """Width and height in pixels; None where this header is not understood."""
    reader = _READERS.get(media_type)
    try:
        return reader(payload) if reader else None
    except (StructError, IndexError):
        return None


def frames_beyond(payload: bytes, limit: int = MAX_FRAMES) -> bool:
    """Whether a GIF has more frames than this, or too many blocks to count them."""
    frames, at, left = 0, 13, _MAX_SUB_BLOCKS
    try:
        at += _colour_table(payload[10])
        for _ in range(_MAX_STEPS):
            kind = payload[at]
            if kind == 0x2C:
                frames += 1
                if frames > limit:
                    return True
                at += 11 + _colour_table(payload[at + 9])
            elif kind == 0x21:
                at += 2
            else:
                return False  # the trailer, or not a valid block
            while (length := payload[at]) and left:
                at += 1 + length
                left -= 1
            if not left:
                return True
            at += 1
    except IndexError:
        return False
    return True


def _colour_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _png(payload: bytes) -> tuple[int, int]:
    width, height = unpack_from(">II", payload, 16)
    return width, height


def _gif(payload: bytes) -> tuple[int, int]:
    width, height = unpack_from("<HH", payload, 6)
    return width, height


def _bmp(payload: bytes) -> tuple[int, int]:
    (header_bytes,) = unpack_from("<I", payload, 14)
    width, height = unpack_from("<HH" if header_bytes == 12 else "<ii", payload, 18)
    return abs(width), abs(height)


def _jpeg(payload: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_MAX_STEPS):
        if payload[at] != 0xFF:
            return None
        marker = payload[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _PLAIN_MARKERS:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            height, width = unpack_from(">HH", payload, at + 5)
            return width, height
        else:
            at += 2 + unpack_from(">H", payload, at + 2)[0]
    return None


def _webp(payload: bytes) -> tuple[int, int] | None:
    kind = payload[12:16]
    if kind == b"VP8X":
        return _three_bytes(payload, 24) + 1, _three_bytes(payload, 27) + 1
    if kind == b"VP8 ":
        width, height = unpack_from("<HH", payload, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = unpack_from("<I", payload, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _three_bytes(payload: bytes, at: int) -> int:
    return payload[at] | payload[at + 1] << 8 | payload[at + 2] << 16


_READERS = {
    "image/png": _png,
    "image/gif": _gif,
    "image/bmp": _bmp,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
}

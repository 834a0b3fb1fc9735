"""Leaves metadata out that would make Pillow refuse a good picture.

It refuses a whole PNG where a text or a colour profile unpacks to more than a megabyte, or any
optional chunk is damaged, and a whole JPEG for a short JFIF, ICC or Adobe segment, though no pixel
depends on them here. What tells how the picture lies is kept while it is small and sound. Pure.
"""

from __future__ import annotations

import zlib
from struct import unpack_from

__all__ = ("bare_jpeg", "bare_png")

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 100_000
"""Most chunks or segments looked at, which bounds the time; what follows is left as it is."""
_START_OF_SCAN = 0xDA
_JPEG_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE)) - {0xE1}
"""Markers of application segments and comments, less that of EXIF and XMP."""
_MAX_KEPT_BYTES = 1024 * 1024 - 1
"""Longest orientation that is read, unpacked; Pillow's own bound is one byte more."""
_TELL_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Beginnings of the texts in which Pillow looks for it, besides eXIf."""


def bare_png(content: bytes) -> bytes:
    """The PNG less its optional chunks but for transparency and orientation; other bytes as is."""
    if not content.startswith(_SIGNATURE):
        return content
    view, kept, begin, at = memoryview(content), [], 0, len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(content):
            break
        length, kind = unpack_from(">I4s", content, at)
        end = at + 12 + length
        if not _is_needed(kind, view[at + 4 : end]):
            kept.append(view[begin:at])
            begin = end
        at = end
        if kind == b"IEND":
            break
    return b"".join((*kept, view[begin:])) if kept else content


def bare_jpeg(content: bytes) -> bytes:
    """The JPEG less its application segments and comments but for EXIF and XMP.

    Costs little in colour: without them a decoder takes three components for YCbCr, as nearly
    all are.
    """
    view, kept, begin, at = memoryview(content), [], 0, 2
    for _ in range(_MAX_CHUNKS):
        if at + 4 > len(content) or content[at] != 0xFF or content[at + 1] == _START_OF_SCAN:
            break
        end = at + 2 + int.from_bytes(view[at + 2 : at + 4], "big")
        if content[at + 1] in _JPEG_METADATA:
            kept.append(view[begin:at])
            begin = end
        at = end
    return b"".join((*kept, view[begin:])) if kept else content


def _is_needed(kind: bytes, chunk: memoryview) -> bool:
    """chunk: its type, data and checksum. The case of the first letter says what is optional."""
    if not kind[0] & 0x20:
        return True
    if kind not in (b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
        return False
    if not 8 <= len(chunk) <= _MAX_KEPT_BYTES:
        return False
    if int.from_bytes(chunk[-4:], "big") != zlib.crc32(chunk[:-4]):
        return False
    return kind in (b"tRNS", b"eXIf") or _tells_orientation(kind, bytes(chunk[4:-4]))


def _tells_orientation(kind: bytes, text: bytes) -> bool:
    name = next((name for name in _TELL_ORIENTATION if text.startswith(name)), None)
    if name is None:
        return False
    rest = text[len(name) :]
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _is_small(rest[1:])
    if kind == b"iTXt" and rest[:1] != b"\0":
        return rest[1:2] == b"\0" and _is_small(rest[2:].split(b"\0", 2)[-1])
    return True


def _is_small(packed: bytes) -> bool:
    reader = zlib.decompressobj()
    try:
        reader.decompress(packed, _MAX_KEPT_BYTES)
    except zlib.error:
        return False
    return not reader.unconsumed_tail

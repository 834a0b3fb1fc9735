"""The body of a message: unpacked as its headers say, within a bound.

What Celery clients call gzip and zlib is one format, zlib's. A few bytes may
unpack to gigabytes, so each is unpacked only as far as the bound.
"""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from common.errors import InputTooLarge, UnreadableMessage

MAX_UNPACKED_BYTES = 32 * 1024 * 1024
"""The bound of who sets none."""


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, packed: bytes, max_length: int, /) -> bytes: ...


_UNPACKERS: Mapping[str, Callable[[], _Unpacker]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}
_ALIASES = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
}
_DAMAGED = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)


def read_body(message: Mapping[str, Any], max_bytes: int) -> tuple[list[Any], dict[str, Any], Any]:
    """The args, kwargs and embed of the call.

    Raises what makes a message unreadable, or InputTooLarge.
    """
    body = message["body"]
    if message.get("properties", {}).get("body_encoding") == "base64":
        body = base64.b64decode(body)
    if (compression := message["headers"].get("compression")) is not None:
        body = _unpack(body, str(compression), max_bytes)
    args, kwargs, embed = loads(body)
    if not isinstance(kwargs, dict) or not isinstance(args, list):
        raise TypeError("args and kwargs must be a list and an object")
    return args, kwargs, embed


def loads(raw: bytes | str) -> Any:
    """Read JSON, as any client may write it."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)  # NaN and great depth, which other clients may send


def _unpack(packed: bytes | str, compression: str, max_bytes: int) -> bytes:
    make = _UNPACKERS.get(_ALIASES.get(compression, compression))
    if make is None:
        raise UnreadableMessage(
            f"compression {compression[:80]!r} is refused; send gzip, zlib, bzip2, lzma or none"
        )
    unpacker = make()
    try:
        if isinstance(packed, str):
            packed = packed.encode("latin-1")
        body = unpacker.decompress(packed, max_bytes + 1)
    except _DAMAGED as exc:
        raise ValueError(f"its {compression} is damaged: {exc}") from exc
    if len(body) > max_bytes:
        raise InputTooLarge(f"the call is larger than {max_bytes} bytes once it is decompressed")
    if not unpacker.eof:
        raise ValueError(f"its {compression} is cut off")
    return body

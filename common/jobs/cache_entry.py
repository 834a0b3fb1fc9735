"""What a result depends on, as one digest; and how a result is kept under it.

Pure: no I/O and no clock. Both sides need it: the front makes the digest and
reads what is kept, the worker writes it. An entry is one header line, then
the result's JSON as the worker made it. The header's checksum covers the key
too, so that a torn, foreign or misplaced entry is a miss, and a hit's result
goes to the client as it is, unparsed.

A kept result says how a *model* answers, so an entry holds nothing of the
job that it came from: no id, no times, no worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from common.catalog import ModelSpec

__all__ = ("Entry", "age_seconds", "digest_of", "pack", "unpack")

_FORMAT = b"lf1"
_CHECKSUM_BYTES = 12
_HEADER_WORDS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """A result that is kept."""

    result: bytes
    """JSON."""
    stored_ms: int
    """When it was made, Unix milliseconds."""
    version: str
    """Of the model that made it."""
    weights: str
    """The digest of that model's weights."""


def digest_of(
    spec: ModelSpec,
    *,
    scope: str,
    weights: str,
    epoch: str,
    params: Mapping[str, Any],
    value: Any,
    blob: bytes | None,
) -> str:
    """SHA-256, in hex, of all that a result depends on.

    scope keeps tenants apart; epoch changes when the model's cache is purged.
    Raises orjson.JSONEncodeError for a value that JSON cannot carry.
    """
    parts = [
        scope.encode(),
        spec.name.encode(),
        spec.version.encode(),
        spec.precision.encode(),
        weights.encode(),
        epoch.encode(),
        orjson.dumps(params, option=orjson.OPT_SORT_KEYS) if params else b"{}",
    ]
    if blob is not None:
        parts += (b"blob", blob)
    elif isinstance(value, str):
        parts += (b"text", value.encode("utf-8", "surrogatepass"))
    else:
        parts += (b"json", orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
    # Each part's length goes first, so that no two lists of parts read alike.
    lengths = b",".join(b"%d" % len(part) for part in parts)
    return hashlib.sha256(b"\n".join((lengths, *parts))).hexdigest()


def pack(key: str, entry: Entry) -> bytes:
    """The entry as it is kept under this key."""
    rest = b"%d %s %s\n%b" % (
        entry.stored_ms,
        entry.version.encode(),
        entry.weights.encode(),
        entry.result,
    )
    return b"%b %b %b" % (_FORMAT, _checksum(key, rest), rest)


def unpack(key: str, raw: bytes | None) -> Entry | None:
    """The entry kept under this key; None for none, and for anything that is not one."""
    if raw is None:
        return None
    header, newline, result = raw.partition(b"\n")
    words = header.split(b" ")
    if not newline or len(words) != _HEADER_WORDS or words[0] != _FORMAT:
        return None
    if words[1] != _checksum(key, raw[len(_FORMAT) + len(words[1]) + 2 :]):
        return None
    return Entry(result, int(words[2]), words[3].decode(), words[4].decode())


def _checksum(key: str, rest: bytes) -> bytes:
    return (
        hashlib.blake2b(rest, digest_size=_CHECKSUM_BYTES, key=key.encode()[-64:])
        .hexdigest()
        .encode()
    )


def age_seconds(entry: Entry, now_ms: int) -> int:
    """Whole seconds since the result was made; two machines' clocks may disagree a little."""
    return max(0, now_ms - entry.stored_ms) // 1000

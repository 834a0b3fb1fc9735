"""The cache key, a digest of all that a result depends on; and the format of cache entries.

Pure: no I/O and no clock. Both sides use it: the front computes the digest and reads entries,
the worker writes them. An entry is one header line, then the result's JSON as the worker
encoded it. The header's checksum covers the key too, so that a truncated, foreign or misplaced
entry is a miss, and a hit's result is sent to the client unparsed.

A cached result is the output of a *model*, so an entry contains nothing of the job that
produced it: no id, no times, no worker.
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
    """A cached result."""

    result: bytes
    """The result as JSON."""
    stored_ms: int
    """When it was produced, Unix milliseconds."""
    version: str
    """The version of the model that produced it."""
    weights: str
    """The weights digest of that model."""


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
    """SHA-256, in hex, of everything that a result depends on.

    scope separates tenants; epoch changes when the model's cache is purged. Raises
    orjson.JSONEncodeError for a value that JSON cannot represent.
    """
    parts = [
        scope.encode(),
        spec.name.encode(),
        spec.version.encode(),
        spec.arithmetic.encode(),
        weights.encode(),
        epoch.encode(),
        orjson.dumps(params, option=orjson.OPT_SORT_KEYS) if params else b"{}",
    ]
    if blob is not None:
        parts += (b"blob", blob)
    elif isinstance(value, str):
        parts += (b"text", value.encode("utf-8", "surrogatepass"))
    else:
        # In its own order of keys, which a handler may go by; only params have none.
        parts += (b"json", orjson.dumps(value))
    # Each part is prefixed with its length, so that different lists of parts never collide.
    lengths = b",".join(b"%d" % len(part) for part in parts)
    return hashlib.sha256(b"\n".join((lengths, *parts))).hexdigest()


def pack(key: str, entry: Entry) -> bytes:
    """Encode the entry for this key."""
    rest = b"%d %s %s\n%b" % (
        entry.stored_ms,
        entry.version.encode(),
        entry.weights.encode(),
        entry.result,
    )
    return b"%b %b %b" % (_FORMAT, _checksum(key, rest), rest)


def unpack(key: str, raw: bytes | None) -> Entry | None:
    """Decode the entry of this key; None where there is none, or where it is not a valid one."""
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
    """Whole seconds since the result was produced; two machines' clocks may differ slightly."""
    return max(0, now_ms - entry.stored_ms) // 1000

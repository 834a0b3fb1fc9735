"""The header `Idempotency-Key`, and the one that answers it."""

from __future__ import annotations

from api.http.request_errors import InvalidIdempotencyKey

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_LONGEST_KEY = 255


def key_of(header: str) -> str:
    """The key, with or without the quotation marks of the draft; raises InvalidIdempotencyKey."""
    key = header.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 0 < len(key) <= _LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise InvalidIdempotencyKey(
            f"send 1 to {_LONGEST_KEY} printable ASCII characters as {HEADER}, a UUID say"
        )
    return key

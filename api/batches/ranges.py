"""Which bytes of a file a request asks for: so that a download that was cut off goes on. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


class Span(NamedTuple):
    """Bytes of a file, from one up to another that is none of them."""

    first: int
    end: int


class UnsatisfiableError(Exception):
    """None of the bytes that are asked for is in the file."""


def span_of(asked: str | None, if_range: str | None, etag: str, size: int) -> Span | None:
    """The bytes; None for all of them: also where several spans are asked for, or the rest of what
    was another file. Raises UnsatisfiableError.
    """
    found = _RANGE.fullmatch((asked or "").replace(" ", ""))
    if found is None or if_range not in (None, etag):
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        span = Span(max(0, size - int(suffix)), size)
    else:
        if last and int(last) < int(first):
            return None  # no range at all, by RFC 9110
        span = Span(int(first), min(size, int(last) + 1) if last else size)
    if span.first >= span.end:
        raise UnsatisfiableError
    return span

"""The W3C `traceparent` that a request brought, which goes with its job to the worker.

It is passed on as it came: we record no spans of our own, and a parent that
nobody ever reports would leave a hole in the picture of the trace.
"""

from __future__ import annotations

import re

# A version above 00 may append fields, each after a hyphen; ff is no version. What may be in
# those is ours to say: nothing that means anything in JSON, in a log or in a header.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[0-9A-Za-z._~-]{1,128})?"
)


def read_traceparent(value: object) -> str:
    """The header as it came, or an empty string when it is not valid."""
    if not value:
        return ""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return ""
    found = _TRACEPARENT.fullmatch(value)
    if found is None or (value.startswith("00") and found.group(2)):
        return ""
    return value


def trace_id(traceparent: str) -> str:
    """The trace's id in a valid traceparent."""
    return traceparent[3:35]

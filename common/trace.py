"""The W3C `traceparent` of a request, which is passed with its job to the worker.

It is passed on unchanged where the fleet records no spans of its own (LANEFLEET_TRACES): a parent
span that is never reported would leave a gap in the trace.
"""

from __future__ import annotations

import re

# A version above 00 may append fields, each after a hyphen; ff is no version. The allowed
# characters of such fields have no meaning in JSON, in a log or in a header.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[0-9A-Za-z._~-]{1,128})?"
)


def read_traceparent(value: object) -> str:
    """The header unchanged, or an empty string when it is not valid."""
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


def is_sampled(traceparent: str) -> bool:
    """Whether a valid traceparent says that its trace is recorded; no, for an empty string."""
    return bool(traceparent) and int(traceparent[53:55], 16) & 1 == 1


def trace_id(traceparent: str) -> str:
    """The trace's id in a valid traceparent."""
    return traceparent[3:35]

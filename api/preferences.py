"""The `Prefer` header of RFC 7240, as far as this API honours it: `wait=n`."""

from __future__ import annotations

import re

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+(?:\.\d+)?)\"?")


def wait_preference(header: str | None, longest: float) -> float | None:
    """Seconds the client is ready to wait, at most `longest`; None when it did not say."""
    found = _WAIT.search(header or "")
    return min(float(found.group(1)), longest) if found else None

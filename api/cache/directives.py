"""Parses the client's cache directives: `Cache-Control` (RFC 9111), beside the job's `cache`."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ("ANYTHING", "NOTHING", "CacheDirectives", "directives_of")

_DIRECTIVE = re.compile(r"(?:^|[,\s])(no-store|no-cache|max-age)(?:\s*=\s*\"?(\d{1,9})\"?)?", re.I)


@dataclass(frozen=True, slots=True)
class CacheDirectives:
    """How the cache may be used for a job."""

    look: bool = True
    """Whether a cached result, or the run of an identical job, may be the answer."""
    keep: bool = True
    """Whether the result may be cached, and the run shared."""
    max_age_seconds: int | None = None
    """Maximum age of a cached result."""


ANYTHING = CacheDirectives()
NOTHING = CacheDirectives(look=False, keep=False)


def directives_of(header: str | None) -> CacheDirectives:
    """Parse `Cache-Control`: no-store, no-cache, max-age=n; other directives are ignored."""
    if header is None:
        return ANYTHING
    said = {name.lower(): value for name, value in _DIRECTIVE.findall(header)}
    if "no-store" in said:
        return NOTHING
    if "no-cache" in said or (said.get("max-age", "").strip("0") == "" and said.get("max-age")):
        return CacheDirectives(look=False)
    oldest = said.get("max-age")
    return CacheDirectives(max_age_seconds=int(oldest)) if oldest else ANYTHING

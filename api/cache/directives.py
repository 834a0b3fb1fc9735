"""What a client asks of the cache: `Cache-Control` (RFC 9111), beside the job's own `cache`."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ("ANYTHING", "NOTHING", "CacheDirectives", "directives_of")

_DIRECTIVE = re.compile(r"(?:^|[,\s])(no-store|no-cache|max-age)(?:\s*=\s*\"?(\d{1,9})\"?)?", re.I)


@dataclass(frozen=True, slots=True)
class CacheDirectives:
    """How the cache may serve a job."""

    look: bool = True
    """Whether a kept result, or the run of an identical job, will do."""
    keep: bool = True
    """Whether the result may be kept, and the run shared."""
    max_age_seconds: int | None = None
    """How old a kept result may be."""


ANYTHING = CacheDirectives()
NOTHING = CacheDirectives(look=False, keep=False)


def directives_of(header: str | None) -> CacheDirectives:
    """What `Cache-Control` asks for: no-store, no-cache, max-age=n; the rest is not for us."""
    if header is None:
        return ANYTHING
    said = {name.lower(): value for name, value in _DIRECTIVE.findall(header)}
    if "no-store" in said:
        return NOTHING
    if "no-cache" in said or (said.get("max-age", "").strip("0") == "" and said.get("max-age")):
        return CacheDirectives(look=False)
    oldest = said.get("max-age")
    return CacheDirectives(max_age_seconds=int(oldest)) if oldest else ANYTHING

"""Parses `Prefer` (RFC 7240): whether a client waits for the result, and how long.

A preference that is unknown or invalid is ignored, as the RFC requires; the response names
those that were honoured. A `Prefer` of more than 1 KB is ignored too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

VARY = "Prefer"

_LONGEST = 1024
_USUAL = 64
"""Longest header that is read once only; characters."""

# A quotation mark without a second one extends to the end: a search that restarted after each
# would take quadratic time in the length.
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?$))+')
_PREFERENCE = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(\"(?:[^\"\\]|\\.)*\"|[^\s;\"]*)\s*)?(?:;|$)"
)
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that this API honours."""

    wait_seconds: float | None = None
    """How long the client waits, at most what the fleet allows; None where not given."""
    respond_async: bool = False
    minimal: bool = False
    """Whether the client wants the least that answers it, where a route has such a form."""

    @classmethod
    def of(cls, header: str | None, longest_seconds: float) -> Preferences:
        """Parse the header; of a preference given twice the first is used."""
        if header is None or len(header) > _LONGEST:
            return NONE
        read = _read_once if len(header) <= _USUAL else _read
        return read(header, longest_seconds)

    def applied(self, *, settled: bool) -> str:
        """The value of `Preference-Applied`, '' for none; a settled job was not answered async."""
        parts = ["respond-async"] if self.respond_async and not settled else []
        if self.wait_seconds is not None:
            parts.append(f"wait={self.wait_seconds:g}")
        return ", ".join(parts)


def _read(header: str, longest_seconds: float) -> Preferences:
    found: dict[str, str] = {}
    for element in _ELEMENT.findall(header):
        if match := _PREFERENCE.match(element):
            name, value = match.group(1).lower(), match.group(2) or ""
            found.setdefault(name, value.strip('"'))
    wait = found.get("wait", "")
    return Preferences(
        min(float(wait), longest_seconds) if _SECONDS.fullmatch(wait) else None,
        found.get("respond-async") == "",
        found.get("return") == "minimal",
    )


_read_once = lru_cache(maxsize=256)(_read)
"""A client sends the same header with every request."""

NONE = Preferences()
"""Of a request that names none."""

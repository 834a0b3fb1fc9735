"""`Prefer` (RFC 7240): how long a client is ready to wait, and whether it is at all.

A preference that is unknown or makes no sense is ignored, as the RFC demands; the answer
names those that were honoured. So is a `Prefer` of more than 1 KB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VARY = "Prefer"

_LONGEST = 1024

# A quotation mark without a second one counts to the end: a search that began again after each
# would take time with the square of the length.
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?$))+')
_PREFERENCE = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(\"(?:[^\"\\]|\\.)*\"|[^\s;\"]*)\s*)?(?:;|$)"
)
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that this API honours."""

    wait_seconds: float | None = None
    """How long the client is ready to wait, at most what the fleet allows; None: it did not say."""
    respond_async: bool = False

    @classmethod
    def of(cls, header: str | None, longest_seconds: float) -> Preferences:
        """Read the header; of a preference given twice the first counts."""
        found: dict[str, str] = {}
        if header is None or len(header) > _LONGEST:
            return _NONE
        for element in _ELEMENT.findall(header):
            if match := _PREFERENCE.match(element):
                name, value = match.group(1).lower(), match.group(2) or ""
                found.setdefault(name, value.strip('"'))
        wait = found.get("wait", "")
        return cls(
            min(float(wait), longest_seconds) if _SECONDS.fullmatch(wait) else None,
            found.get("respond-async") == "",
        )

    def applied(self, *, settled: bool) -> str:
        """The value of `Preference-Applied`, '' for none; a settled job was not answered async."""
        parts = ["respond-async"] if self.respond_async and not settled else []
        if self.wait_seconds is not None:
            parts.append(f"wait={self.wait_seconds:g}")
        return ", ".join(parts)


_NONE = Preferences()

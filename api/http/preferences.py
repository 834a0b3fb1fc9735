"""What a request's headers ask of its answer: `Prefer` (RFC 7240), `Idempotency-Key`,
`Cache-Control` (api/cache/directives.py).

All are read in one walk over the raw headers, because every submit passes
here and most carry none. A preference that is unknown or makes no sense
is ignored, as the RFC demands; the answer names those that were honoured.
So is a `Prefer` of more than 1 KB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
class Asked:
    """The headers of a submit that change its answer, as they came; None where absent."""

    prefer: str | None = None
    idempotency_key: str | None = None
    cache_control: str | None = None


_NOTHING = Asked()


def asked_of(raw_headers: Iterable[tuple[bytes, bytes]]) -> Asked:
    """Pick them out; a field sent twice counts as one list, in order."""
    prefer: list[str] = []
    key: list[str] = []
    cache: list[str] = []
    for name, value in raw_headers:
        if name == b"prefer":
            prefer.append(value.decode("latin-1"))
        elif name == b"idempotency-key":
            key.append(value.decode("latin-1"))
        elif name == b"cache-control":
            cache.append(value.decode("latin-1"))
    if not prefer and not key and not cache:
        return _NOTHING
    return Asked(
        ", ".join(prefer) or None, ", ".join(key) if key else None, ", ".join(cache) or None
    )


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

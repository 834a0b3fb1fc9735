"""What was revoked by the stamps of its messages, bounded: Celery's own memory of it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_STAMPS = 50_000


class RevokedStamps:
    """Pairs of a stamp's name and value; the oldest are forgotten first.

    Written on the loop's thread; any thread may ask.
    """

    def __init__(self, max_stamps: int = MAX_STAMPS) -> None:
        self._max_stamps = max_stamps
        self._pairs: dict[tuple[str, str], None] = {}

    def add(self, stamps: Mapping[str, Any]) -> None:
        """From now on jobs with any of these are revoked."""
        for pair in _pairs_of(stamps):
            self._pairs.pop(pair, None)
            self._pairs[pair] = None
        while len(self._pairs) > self._max_stamps:
            del self._pairs[next(iter(self._pairs))]

    def match(self, stamps: Mapping[str, Any]) -> bool:
        """Whether a job with these stamps was revoked."""
        return bool(self._pairs) and any(pair in self._pairs for pair in _pairs_of(stamps))


def _pairs_of(stamps: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One for each value; a stamp may have several. Compared as text, as commands carry them."""
    return [
        (str(name), str(value))
        for name, values in stamps.items()
        for value in (values if isinstance(values, list | tuple | set) else (values,))
    ]

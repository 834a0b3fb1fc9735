"""How many jobs a server should get now, by how its last requests went.

Pure: the time is passed in. A server that is busy says for how long; one whose requests fail one
after the other gets none for a growing pause, and then a single one, until that succeeds.
"""

from __future__ import annotations

_FAILURES = 4
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_DOUBLINGS = 10
_BUSY_SECONDS = 1.0
_LONGEST_BUSY_SECONDS = 60.0


class Circuit:
    """Counts failures in a row; not thread-safe, called on the server's loop."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._failures = 0
        self._failed_at = 0.0
        self._closed_until = 0.0

    def succeeded(self) -> None:
        """A request was answered, or refused for its own fault."""
        self._failures = 0

    def answers(self) -> None:
        """A request has begun to be answered, which may take long: others may be sent beside it,
        until the next one fails.
        """
        self._failures = min(self._failures, _FAILURES - 1)

    def recovered(self) -> None:
        """The server was away, and is back: what failed meanwhile says nothing of it."""
        self._failures, self._closed_until = 0, 0.0

    def failed(self, now: float, began: float) -> float:
        """A request that began then failed for the server's fault; returns how long to send none.

        Those that were under way when another failed count with that one.
        """
        if began < self._failed_at:
            return 0.0
        self._failures, self._failed_at = self._failures + 1, now
        extra = self._failures - _FAILURES
        if extra < 0:
            return 0.0
        doubled = 2.0 ** min(extra, _MOST_DOUBLINGS)  # 2.0**1024 raises
        return self._pause(now, min(_FIRST_PAUSE_SECONDS * doubled, _LONGEST_PAUSE_SECONDS))

    def busy(self, now: float, seconds: float | None) -> float:
        """The server has too many requests, for so long if it says so."""
        wanted = _BUSY_SECONDS if seconds is None else seconds
        return self._pause(now, min(max(wanted, 0.0), _LONGEST_BUSY_SECONDS))

    def _pause(self, now: float, seconds: float) -> float:
        self._closed_until = max(self._closed_until, now + seconds)
        return seconds

    def room(self, now: float) -> int:
        """Jobs that the server may have at once."""
        if now < self._closed_until:
            return 0
        return 1 if self._failures >= _FAILURES else self._slots

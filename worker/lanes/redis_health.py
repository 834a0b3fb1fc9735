"""When Redis last answered this worker."""

from __future__ import annotations


class RedisHealth:
    """Written by any thread after a round trip; read by the health server and the metrics."""

    def __init__(self, now: float) -> None:
        self._answered_at = now

    def answered(self, now: float) -> None:
        """Record that Redis answered at this steady time."""
        self._answered_at = now

    def silence(self, now: float) -> float:
        """Seconds since the last answer."""
        return now - self._answered_at

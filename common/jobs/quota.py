"""A tenant's limits, and what remains of its rate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one tenant; 0 is no limit."""

    jobs_per_second: float = 0.0
    burst: int = 0
    """Jobs it may send at once after a pause."""
    max_in_flight: int = 0
    """Jobs it may have waiting or running."""


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Quota:
    """What remains of a tenant's rate."""

    limits: Limits
    remaining: int
    """Jobs it may send now; -1 where its rate is not limited."""
    reset_ms: int
    """Milliseconds until it may send its whole burst."""

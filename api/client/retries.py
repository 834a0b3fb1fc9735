"""Decides whether and when to retry. No I/O and no clock of its own, so that it is testable.

A request is repeated only where that cannot do its work twice: it was never sent, the API
reports that it did nothing (429), or it is `repeatable`, as a submit is by its Idempotency-Key.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from .errors import ApiError

__all__ = ("Attempts", "RetryPolicy", "retry_after_seconds")

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NOTHING_DONE = 429
_UNAVAILABLE = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of retries, and the pauses between them."""

    retries: int = 4
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 10.0
    """Of the client's own pauses; `Retry-After` may require a longer one."""
    longest_retry_after_seconds: float = 60.0
    """A response with a longer Retry-After than this is not retried."""


class Attempts:
    """The attempts at one request."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        repeatable: bool,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._repeatable = repeatable
        self._jitter = jitter
        self._made = 0

    def after_error(self, error: httpx.TransportError) -> float | None:
        """Seconds to pause before the next attempt; None for no further one."""
        if self._repeatable or isinstance(error, _NEVER_SENT):
            return self.pause(None)
        return None

    def after_status(self, status: int, headers: Mapping[str, str]) -> float | None:
        """The same, for a response with this status."""
        if status == _NOTHING_DONE or (self._repeatable and status in _UNAVAILABLE):
            return self.pause(retry_after_seconds(headers.get("retry-after"), _now()))
        return None

    def after(self, error: httpx.TransportError | ApiError) -> float:
        """The same for either; raises the error where there is no further attempt."""
        if isinstance(error, ApiError):
            pause = self.after_status(error.status, error.headers)
        else:
            pause = self.after_error(error)
        if pause is None:
            raise error
        return pause

    def pause(self, retry_after: float | None) -> float | None:
        """The next pause: doubling, with random jitter, and no shorter than `retry_after`."""
        policy = self._policy
        if self._made >= policy.retries:
            return None
        usual = min(policy.first_pause_seconds * 2**self._made, policy.longest_pause_seconds)
        self._made += 1
        if retry_after is None:
            return self._jitter(usual / 2, usual)
        if retry_after > policy.longest_retry_after_seconds:
            return None
        return retry_after + self._jitter(0.0, usual)


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """The header's seconds, or seconds until its date; None when absent or unreadable."""
    if not header:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(header) - now).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _now() -> datetime:
    return datetime.now(UTC)

"""Measures the device's time: busy, idle by cause, and the rest.

Idle time is recorded with its cause, because each cause is fixed in a different place.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple, get_args

_RECENT_SECONDS = 10.0

Idle = Literal["no_work", "reserving", "decoding", "company", "loading", "publishing", "shadow"]
IDLE: tuple[Idle, ...] = get_args(Idle)
"""Causes of idle time.

no_work     no job is known to wait
reserving   the next jobs are being reserved
decoding    jobs are in hand, and none is decoded yet
company     decoded jobs wait for others to share the batch (at most max_wait_ms)
loading     a model is being loaded or warmed up
publishing  the finisher is too far behind: Redis is slow or unavailable
shadow      no job was known to wait, and a shadow ran
"""


class _Wait(NamedTuple):
    cause: Idle
    began: float
    ended: float


class DeviceTime:
    """The device thread's time since its start: busy, idle by cause, and the rest.

    Written by that thread alone. Times are seconds on the steady clock.
    """

    def __init__(self, now: float) -> None:
        self.began = now
        self.free_since = now
        """When the last batch ended."""
        self._idle: dict[Idle, float] = dict.fromkeys(IDLE, 0.0)
        self._waiting: tuple[Idle, float] | None = None
        """The cause of the current wait, and its start."""
        self._last_wait: _Wait | None = None
        self._busy: tuple[float, float | None] = (0.0, None)
        """Seconds of ended batches, and the start of the running one; replaced together."""
        self.recent_busy = 0.0
        """The busy share of the last ten seconds or so."""
        self._marks: deque[tuple[float, float]] = deque([(now, 0.0)])

    def wait(self, cause: Idle, now: float) -> None:
        """Start a wait with this cause."""
        self._waiting = (cause, now)

    def resume(self, now: float) -> None:
        """End the wait."""
        if self._waiting is None:
            return
        cause, began = self._waiting
        self._waiting = None  # first, so that no reader counts the wait twice
        self._idle[cause] += now - began
        self._last_wait = _Wait(cause, began, now)

    def took(self, arrived: float | None) -> None:
        """Attribute the wait after `arrived`, when the batch's last jobs arrived, to decoding."""
        wait, self._last_wait = self._last_wait, None
        if wait is None or arrived is None or wait.cause not in ("no_work", "reserving"):
            return
        seconds = max(0.0, wait.ended - max(wait.began, arrived))
        self._idle[wait.cause] -= seconds
        self._idle["decoding"] += seconds

    @property
    def is_busy(self) -> bool:
        """Whether a batch is on the device."""
        return self._busy[1] is not None

    def start(self, now: float) -> None:
        """Record that a batch was started, possibly queued behind another one."""
        if not self.is_busy:
            self._busy = (self._busy[0], now)

    def end(self, now: float) -> None:
        """Record that the last batch has ended."""
        seconds, began = self._busy
        self._busy = (seconds + now - began if began is not None else seconds, None)
        self.free_since = now

    def busy_at(self, now: float) -> float:
        """The device's busy seconds until now; on any thread."""
        seconds, began = self._busy
        return seconds if began is None else seconds + max(0.0, now - began)

    def mark(self, now: float) -> None:
        """Update `recent_busy`; called regularly, by one thread."""
        marks, busy = self._marks, self.busy_at(now)
        while len(marks) > 1 and marks[1][0] <= now - _RECENT_SECONDS:
            marks.popleft()
        then, before = marks[0]
        marks.append((now, busy))
        self.recent_busy = (busy - before) / (now - then) if now > then else 0.0

    def idle_seconds(self, now: float) -> dict[Idle, float]:
        """Idle seconds until now, by cause; on any thread. A reading may lag by a moment."""
        idle, waiting = self._idle.copy(), self._waiting
        if waiting is not None:
            idle[waiting[0]] += max(0.0, now - waiting[1])
        return idle

"""What the device did with its time: busy, idle for want of what, and the rest.

An idle device is only worth knowing with its cause: each cause is mended elsewhere.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple, get_args

_RECENT_SECONDS = 10.0

Idle = Literal["no_work", "reserving", "decoding", "company", "loading", "publishing"]
IDLE: tuple[Idle, ...] = get_args(Idle)
"""What an idle device waits for.

no_work     nothing waits that we know of
reserving   the next jobs are on their way from Redis
decoding    jobs are in hand, and none is decoded yet
company     some are decoded, others are about to be (at most max_wait_ms)
loading     a model is being loaded or warmed up
publishing  the finisher is too far behind: Redis is slow or away
"""


class _Wait(NamedTuple):
    cause: Idle
    began: float
    ended: float


class DeviceTime:
    """What the device's thread did since it began: busy, idle by cause, and the rest.

    Written by that thread alone. Times are seconds on the steady clock.
    """

    def __init__(self, now: float) -> None:
        self.began = now
        self.free_since = now
        """When the last batch ended."""
        self._idle: dict[Idle, float] = dict.fromkeys(IDLE, 0.0)
        self._waiting: tuple[Idle, float] | None = None
        """What it waits for now, and since when."""
        self._last_wait: _Wait | None = None
        self._busy: tuple[float, float | None] = (0.0, None)
        """Seconds of ended batches, and when the running one began; replaced as one."""
        self.recent_busy = 0.0
        """The busy share of the last ten seconds or so."""
        self._marks: deque[tuple[float, float]] = deque([(now, 0.0)])

    def wait(self, cause: Idle, now: float) -> None:
        """It has nothing to do, for this reason."""
        self._waiting = (cause, now)

    def resume(self, now: float) -> None:
        """It looks again."""
        if self._waiting is None:
            return
        cause, began = self._waiting
        self._waiting = None  # first, so that no reader counts the wait twice
        self._idle[cause] += now - began
        self._last_wait = _Wait(cause, began, now)

    def took(self, arrived: float | None) -> None:
        """It has a batch, whose last jobs came in then: what it waited since was decoding."""
        wait, self._last_wait = self._last_wait, None
        if wait is None or arrived is None or wait.cause not in ("no_work", "reserving"):
            return
        seconds = max(0.0, wait.ended - max(wait.began, arrived))
        self._idle[wait.cause] -= seconds
        self._idle["decoding"] += seconds

    @property
    def is_busy(self) -> bool:
        """Whether a batch has the device."""
        return self._busy[1] is not None

    def start(self, now: float) -> None:
        """A batch has the device, perhaps behind another one."""
        if not self.is_busy:
            self._busy = (self._busy[0], now)

    def end(self, now: float) -> None:
        """The last one is done."""
        seconds, began = self._busy
        self._busy = (seconds + now - began if began is not None else seconds, None)
        self.free_since = now

    def busy_at(self, now: float) -> float:
        """Seconds of busy device until now; on any thread."""
        seconds, began = self._busy
        return seconds if began is None else seconds + max(0.0, now - began)

    def mark(self, now: float) -> None:
        """Keep `recent_busy` up to date; for one thread that calls it regularly."""
        marks, busy = self._marks, self.busy_at(now)
        while len(marks) > 1 and marks[1][0] <= now - _RECENT_SECONDS:
            marks.popleft()
        then, before = marks[0]
        marks.append((now, busy))
        self.recent_busy = (busy - before) / (now - then) if now > then else 0.0

    def idle_seconds(self, now: float) -> dict[Idle, float]:
        """Seconds it waited until now, by cause; on any thread. A moment's reading may lag."""
        idle, waiting = self._idle.copy(), self._waiting
        if waiting is not None:
            idle[waiting[0]] += max(0.0, now - waiting[1])
        return idle

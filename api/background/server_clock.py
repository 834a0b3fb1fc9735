"""What time it is on the queue's server, whose clock decides when a job is too late.

This process's own may be hours off: a deadline of 30 seconds was over at once, or never. Between
two readings of the server's clock time goes on by our steady one, which nobody sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class ServerClock:
    """Unix milliseconds of the server; of this process until the server's are first read."""

    def __init__(
        self,
        steady: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.time,
    ) -> None:
        self._steady = steady
        self._own = own
        self._ahead: float | None = None

    def read(self, server_ms: int) -> None:
        """The server has just said what time it is."""
        self._ahead = server_ms / 1000 - self._steady()

    def now_ms(self) -> int:
        """What time it is there."""
        seconds = self._own() if self._ahead is None else self._steady() + self._ahead
        return int(seconds * 1000)

"""How fast the batches of one courier enqueue, all together.

Redis runs one script at a time. Where each of sixteen batches had one of 200 jobs waiting there, a
command of anybody else waited for all of these, and an interactive job for four of its own: its p95
was 20 times as long. So there is one at a time, and after it a pause in which others have Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_LONGEST_PAUSE_SECONDS = 0.05


class Pace:
    """Shared by the feeders of one courier."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Held around one script; the next one waits half as long as it took."""
        async with self._lock:
            began = time.monotonic()
            yield
            took = time.monotonic() - began
            await asyncio.sleep(min(took / 2, _LONGEST_PAUSE_SECONDS))

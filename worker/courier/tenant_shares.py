"""Parts a courier's places among tenants, so that receivers that hang hold up their tenant alone.

The lane gives tenants their turns when it is reserved from; but a place that is held as long as
a timeout comes back too late for that. So a tenant has an equal part of three quarters of the
places, and what it has beyond waits a moment, then returns to the lane.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_RATE_SECONDS, _RATE_WEIGHT, _RATE_LEAST = 1.0, 0.3, 0.01


class ShareFullError(Exception):
    """The tenant holds as many places as it may."""


class TenantShares:
    """Places by tenant, in one event loop."""

    def __init__(
        self, places: int, wait_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._counted_from = clock()
        self._ended: Counter[str] = Counter()
        self._rates: dict[str, float] = {}
        self._parted = max(1, places * 3 // 4)
        self._wait_seconds = wait_seconds
        self._held: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    @property
    def share(self) -> int:
        """How many places a tenant may hold now."""
        return max(1, self._parted // max(1, len(self._held)))

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Hold one; raises ShareFullError where none was free for a moment."""
        while self._held[tenant] >= self.share:
            await self._wait(tenant)
        self._held[tenant] += 1
        try:
            yield
        finally:
            self._ended[tenant] += 1
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant]
            self._wake(tenant)

    def rate(self, tenant: str) -> float | None:
        """How many of the tenant's have ended a second lately; None of one that is new."""
        elapsed = self._clock() - self._counted_from
        if elapsed >= _RATE_SECONDS:
            for name in {*self._rates, *self._ended, *self._held}:
                now = self._ended[name] / elapsed
                before = self._rates.get(name, now)
                self._rates[name] = before + _RATE_WEIGHT * (now - before)
                if not self._held[name] and self._rates[name] < _RATE_LEAST:
                    del self._rates[name]
            self._ended.clear()
            self._counted_from = self._clock()
        return self._rates.get(tenant)

    async def _wait(self, tenant: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        waiting = self._waiting[tenant]
        waiting.append(turn)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except TimeoutError:
            raise ShareFullError from None
        finally:
            if turn in waiting:
                waiting.remove(turn)
            if not waiting:
                self._waiting.pop(tenant, None)

    def _wake(self, tenant: str) -> None:
        waiting = self._waiting.get(tenant)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

"""Group leased jobs into batches.

Pure on purpose: no I/O, no clock and no threads, so that every timing rule
can be tested by passing in a clock reading.

The rules. A batch has at most `max_batch` items and, padded to its costliest
item, at most `max_cost`. The oldest item is always in the next batch; the
others are the nearest to it in cost, so that little is padded. While the
device is idle a batch leaves at once; while it is busy, or company is known
to be on its way, when it is full or its oldest item has waited `max_wait_ms`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class BatchLimits:
    """What a batch may be; `max_batch` shrinks when the device ran out of memory."""

    max_batch: int
    max_wait_ms: float
    max_cost: float | None = None


@dataclass(slots=True, frozen=True, order=True)
class _Entry(Generic[T]):
    cost: float
    serial: int
    arrived: float
    item: T


class Batcher(Generic[T]):
    """Holds one lane's decoded items until they leave as a batch."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._by_cost: list[_Entry[T]] = []
        self._serial = 0
        self._oldest: dict[int, _Entry[T]] = {}

    def __len__(self) -> int:
        return len(self._by_cost)

    def add(self, item: T, cost: float, now: float) -> None:
        """Take one item; now is in seconds on any steady clock."""
        self._serial += 1
        entry = _Entry(cost, self._serial, now, item)
        self._oldest[entry.serial] = entry
        if not self._by_cost or cost >= self._by_cost[-1].cost:
            self._by_cost.append(entry)
        else:
            insort(self._by_cost, entry)

    def oldest_arrival(self) -> float | None:
        """When the oldest item came in, or None when there is none."""
        first = next(iter(self._oldest.values()), None)
        return first.arrived if first else None

    def ready_at(self) -> float | None:
        """From when on a batch may leave while the device is busy; None when empty."""
        oldest = self.oldest_arrival()
        if oldest is None:
            return None
        if len(self._by_cost) >= self.limits.max_batch:
            return oldest
        return oldest + self.limits.max_wait_ms / 1000

    def next_batch(self, now: float, *, device_idle: bool) -> list[T]:
        """The batch that should leave now; empty when waiting is better."""
        ready_at = self.ready_at()
        if ready_at is None or (not device_idle and now < ready_at):
            return []
        return self._take()

    def drain(self) -> list[T]:
        """Everything, oldest first; for handing back on shutdown."""
        items = [entry.item for entry in self._oldest.values()]
        self._oldest.clear()
        self._by_cost.clear()
        return items

    def _take(self) -> list[T]:
        limits = self.limits
        if len(self._by_cost) <= limits.max_batch and self._fits(0, len(self._by_cost)):
            return self.drain()
        oldest = next(iter(self._oldest.values()))
        low, high = self._window(bisect_left(self._by_cost, oldest))
        chosen = self._by_cost[low:high]
        del self._by_cost[low:high]
        for entry in chosen:
            del self._oldest[entry.serial]
        chosen.sort(key=lambda entry: entry.serial)
        return [entry.item for entry in chosen]

    def _window(self, anchor: int) -> tuple[int, int]:
        """Grow around the anchor, nearest cost first, while both caps hold."""
        low, high = anchor, anchor + 1
        entries, cost = self._by_cost, self._by_cost[anchor].cost
        while high - low < self.limits.max_batch:
            down = cost - entries[low - 1].cost if low > 0 else None
            up = entries[high].cost - cost if high < len(entries) else None
            if up is not None and (down is None or up < down) and self._fits(low, high + 1):
                high += 1
            elif down is not None and self._fits(low - 1, high):
                low -= 1
            elif up is not None and self._fits(low, high + 1):
                high += 1
            else:
                break
        return low, high

    def _fits(self, low: int, high: int) -> bool:
        """Whether this slice, padded to its costliest item, is within max_cost."""
        max_cost = self.limits.max_cost
        if max_cost is None or high - low <= 1:
            return True
        return self._by_cost[high - 1].cost * (high - low) <= max_cost

"""Packs waiting inputs of similar cost into one batch; the parts of the batcher."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import inf
from operator import attrgetter
from typing import Generic, TypeVar

T = TypeVar("T")

BANDS = 4
_LEAST_PADDING, _UNLEARNED_PADDING = 0.1, 0.25
"""Padding always allowed, as a share of the true cost: once batch times are known, and before."""
_PADDING_PER_OVERHEAD = 0.5
"""Padding allowed, as a share of the cost of one more batch; 0.5 to 1 measured alike, 2 worse."""


@dataclass(slots=True)
class BatchLimits:
    """The limits of a batch; `max_batch` is lowered when the device runs out of memory."""

    max_batch: int
    max_wait_ms: float
    max_cost: float | None = None
    target_latency_ms: float | None = None
    """From an item's arrival to the end of its batch, as far as the batch's size affects it."""
    pads: bool = True
    """Whether each item of a batch costs as much as the largest; else its own cost."""


@dataclass(eq=False)
class Entry(Generic[T]):
    """One waiting input. Without slots, so that fields that most never set cost nothing."""

    cost: float
    serial: int
    arrived: float
    item: T
    band: int
    group: Group[T]
    turn: int = 0
    """Position in the order in which tenants take turns."""
    taken: bool = field(default=False, init=False)
    key: Hashable = field(default=None, init=False)
    deadline: float | None = field(default=None, init=False)
    sharers: list[T] | None = field(default=None, init=False)

    def items(self) -> list[T]:
        """The item and those that share its output."""
        return [self.item, *(self.sharers or ())]


_COST = attrgetter("cost")
SERIAL = attrgetter("serial")
TURN = attrgetter("turn")


class Group(Generic[T]):
    """Entries that may share a batch, by band, each sorted by cost, then by turn."""

    def __init__(self, name: Hashable) -> None:
        self.name = name
        self.bands: tuple[list[Entry[T]], ...] = tuple([] for _ in range(BANDS))
        self.by_key: dict[Hashable, Entry[T]] = {}
        self.count = 0
        self.cost = 0.0

    def insert(self, entry: Entry[T]) -> None:
        band = self.bands[entry.band]
        if not band or entry.cost >= band[-1].cost:
            at = len(band)
        else:
            at = bisect_right(band, entry.cost, key=_COST)
        while at and band[at - 1].turn > entry.turn and band[at - 1].cost == entry.cost:
            at -= 1
        band.insert(at, entry)

    def remove(self, entry: Entry[T]) -> None:
        band = self.bands[entry.band]
        del band[band.index(entry, bisect_left(band, entry.cost, key=_COST))]

    def fills(self, limits: BatchLimits) -> bool:
        return self.count >= limits.max_batch or self.cost >= (limits.max_cost or inf)

    def oldest_of_highest(self) -> Entry[T]:
        return min(next(filter(None, self.bands)), key=TURN)


class Draft(Generic[T]):
    """A batch that is being formed around its anchor."""

    def __init__(
        self, anchor: Entry[T], limits: BatchLimits, max_padded: float, overhead: float | None
    ) -> None:
        self.entries = [anchor]
        self.top = self.total = self._near = anchor.cost
        self._max_batch, self._max_padded, self._pads = limits.max_batch, max_padded, limits.pads
        self._max_waste = _PADDING_PER_OVERHEAD * (overhead or 0.0)
        self._max_share = _UNLEARNED_PADDING if overhead is None else _LEAST_PADDING

    @property
    def padded_cost(self) -> float:
        """The cost of the batch on the device, in the unit of `cost`."""
        return self.top * len(self.entries) if self._pads else self.total

    def fill_from(self, band: list[Entry[T]]) -> None:
        """Move the entries nearest in cost into the batch, while all limits hold."""
        room = self._max_batch - len(self.entries)
        if room <= 0 or not band:
            return
        near, size = self._near, len(band)
        low = gap = bisect_left(band, near, key=_COST)
        high = gap + self._alike(band, gap, room)
        for _ in range(room - (high - gap)):
            down = near - band[low - 1].cost if low else inf
            up = band[high].cost - near if high < size else inf
            count = len(self.entries) + high - low + 1
            if up < down and self._admits(band[high].cost, count):
                high += 1
            elif low and self._admits(band[low - 1].cost, count):
                low -= 1
            elif down <= up < inf and self._admits(band[high].cost, count):
                high += 1
            else:
                break
        if low < high:
            self._move(band, low, gap, high)

    def _alike(self, band: list[Entry[T]], gap: int, room: int) -> int:
        """How many entries may be added at once because they cost the same as the anchor."""
        near = self._near
        same = band[-1].cost == near
        end = len(band) if same else bisect_right(band, near, lo=gap, key=_COST)
        count = min(end - gap, room)
        padded = near * (len(self.entries) + count) if self._pads else self.total + near * count
        if (self._pads and self.top != near) or padded > self._max_padded:
            return 0  # They are checked one by one.
        self.total += near * count
        return count

    def _admits(self, cost: float, count: int) -> bool:
        top = cost if cost > self.top else self.top
        total = self.total + cost
        padded = top * count if self._pads else total
        waste = padded - total
        if padded > self._max_padded or (
            waste > self._max_waste and waste > self._max_share * total
        ):
            return False
        self.top, self.total = top, total
        return True

    def _move(self, band: list[Entry[T]], low: int, gap: int, high: int) -> None:
        """Take band[low:high]; among those of the same cost as band[low], the first in turn."""
        if low == gap:
            self.entries += band[low:high]
            del band[low:high]
            return
        cost = band[low].cost
        first = bisect_left(band, cost, hi=low, key=_COST)
        end = bisect_right(band, cost, lo=low, hi=gap, key=_COST)
        last = first + end - low
        self.entries += band[first:last]
        self.entries += band[end:high]
        band[first:high] = band[last:end]

"""Group leased jobs into batches.

Pure on purpose: no I/O, no clock and no threads, so that every timing rule
can be tested by passing in a clock reading.

When a batch is formed: at once while the device is idle; else when a group fills one, when
the oldest item has waited `max_wait_ms`, or when more waiting would miss a deadline or the
latency target.

The first item (the anchor) is:

1. the oldest item of all, when `_PASSED_OVER` batches did not contain it, so that neither
   higher bands nor deadlines starve it;
2. else the item with a deadline that would be missed if another batch ran first;
3. else the first of the highest band: tenants take turns, and the oldest item of a tenant
   comes first.

The others are items of the anchor's group: from its own band first, then from the other
bands from the highest; nearest in cost first, and among equal costs in order of turns. An
item is not added if it would take the batch over `max_batch` items, over `max_cost` when
padded, or past the anchor's deadline or latency target by the learned batch time (these no
longer apply once the anchor alone would miss them: full batches catch up soonest). Nor is it
added if the padding would exceed half of the learned overhead of one more batch: with 64
sentences of 3-60 words in flight, a simulated CPU then did 1.03-1.5 times as much as with
full batches. Where the limits say that nothing is padded, a batch costs the sum of its items
and the rules on padding do not apply.

Turns are start-time fair: an item's turn is one after its tenant's last one, but no earlier
than the current turn. So a tenant that sends a job occasionally is served next, however many
jobs others have here, and tenants with a constant backlog get equal shares.

Items of one group with the same key count once and run once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable
from math import inf
from typing import Generic, TypeVar

from worker.batching.batch_time import BatchTime
from worker.batching.packing import BANDS, SERIAL, TURN, BatchLimits, Draft, Entry, Group

__all__ = ("Batch", "BatchLimits", "BatchTime", "Batcher")

T = TypeVar("T")

_TENANTS_KNOWN = 1_000
"""With more, tenants whose last turn has passed are removed; that does not change their next."""
_PASSED_OVER = 7
"""Batches that may be formed without the oldest item before it becomes the anchor."""


class Batch(list[T]):
    """Items that run together, oldest first; items with the same key are adjacent."""

    __slots__ = ("_pads", "_runs", "padded_cost", "regular")

    def __init__(
        self,
        items: list[T] | tuple[T, ...] = (),
        padded_cost: float = 0.0,
        runs: list[list[T]] | None = None,
        *,
        pads: bool = True,
        regular: bool = True,
    ) -> None:
        super().__init__(items)
        self.padded_cost = padded_cost
        """The largest cost times the number of runs, or the sum of costs without padding."""
        self.regular = regular
        """Whether the batcher formed it, so that its time predicts that of the next batch."""
        self._runs = runs
        self._pads = pads

    @classmethod
    def single(cls, item: T, cost: float) -> Batch[T]:
        """One item that runs alone."""
        return cls([item], cost, regular=False)

    def halves(self, cost: Callable[[T], float]) -> tuple[Batch[T], Batch[T]]:
        """Its two halves, in which every item has a run of its own."""
        middle = len(self) // 2
        first, second = self[:middle], self[middle:]
        return (
            Batch(first, sum(map(cost, first)), regular=False),
            Batch(second, sum(map(cost, second)), regular=False),
        )

    def runs(self) -> list[list[T]]:
        """One list for each input that must run: the items that share its output."""
        return [[item] for item in self] if self._runs is None else self._runs

    def only(self, kept: Callable[[T], bool], cost: Callable[[T], float]) -> Batch[T]:
        """A batch with only the items for which `kept` is true."""
        runs = [left for run in self.runs() if (left := [item for item in run if kept(item)])]
        costs = [cost(run[0]) for run in runs]
        padded = max(costs, default=0.0) * len(runs) if self._pads else sum(costs)
        items = [item for run in runs for item in run]
        return Batch(items, padded, runs, pads=self._pads, regular=self.regular)


class Batcher(Generic[T]):
    """Holds one lane's decoded items until a batch is formed of them.

    All times are seconds on one steady clock, passed in by the caller.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.time = BatchTime()
        self._groups: dict[Hashable, Group[T]] = {}
        self._ages: tuple[deque[Entry[T]], ...] = tuple(deque() for _ in range(BANDS))
        """By band, in order of arrival; taken entries are dropped when they reach the front."""
        self._turns: tuple[deque[Entry[T]], ...] = tuple(deque() for _ in range(BANDS))
        """By band, in the order in which tenants take turns."""
        self._last_turn: tuple[dict[str, int], ...] = tuple({} for _ in range(BANDS))
        """The last turn assigned, by band and tenant."""
        self._turn = [0] * BANDS
        """By band, the turn when the last batch was formed."""
        self._deadlines: list[tuple[float, int, Entry[T]]] = []
        self._serial = 0
        self._held = 0
        self._passed_over = 0

    def __len__(self) -> int:
        return self._held

    def add(
        self,
        item: T,
        cost: float,
        now: float,
        *,
        group: Hashable = None,
        priority: int = 0,
        deadline: float | None = None,
        key: Hashable = None,
        tenant: str = "",
    ) -> None:
        """Add one item.

        cost is in the unit of max_cost; priority is its band, 0 (highest) to 3;
        items of different groups never share a batch; items of the same group and key (not
        None) are treated as the same input.
        """
        self._serial += 1
        self._held += 1
        home = self._groups.get(group)
        if home is None:
            home = self._groups[group] = Group(group)
        entry = home.by_key.get(key) if key is not None else None
        if entry is not None:
            self._share(entry, item, priority)
        else:
            entry = Entry(
                cost, self._serial, now, item, priority, home, self._next_turn(priority, tenant)
            )
            home.insert(entry)
            home.count += 1
            home.cost += cost
            self._wait(entry)
            if key is not None:
                entry.key = key
                home.by_key[key] = entry
        if deadline is not None:
            self._set_deadline(entry, deadline)

    def observe(self, padded_cost: float, seconds: float) -> None:
        """Record the time that a batch of this padded cost took on the device."""
        self.time.observe(padded_cost, seconds)

    def oldest_arrival(self) -> float | None:
        """When the oldest item arrived, or None when there is none."""
        oldest = self._oldest()
        return oldest.arrived if oldest else None

    def ready_at(self) -> float | None:
        """The time from which a batch may be formed while the device is busy; None when empty."""
        oldest = self._oldest()
        if oldest is None:
            return None
        if self._full_group() is not None:
            return oldest.arrived
        return self._due_at(oldest)

    def next_batch(self, now: float, *, device_idle: bool) -> Batch[T]:
        """The batch to run now; empty when waiting is better."""
        oldest = self._oldest()
        if oldest is None:
            return Batch()
        if device_idle or now >= self._due_at(oldest):
            return self._take(self._anchor(oldest, now), oldest, now)
        full = self._full_group()
        return self._take(full.oldest_of_highest(), oldest, now) if full else Batch()

    def take_all(self) -> list[T]:
        """Remove and return all items, oldest first; to be released at shutdown."""
        entries = [entry for home in self._groups.values() for band in home.bands for entry in band]
        items = [item for entry in sorted(entries, key=SERIAL) for item in entry.items()]
        self._groups.clear()
        self._deadlines.clear()
        for entries_of_band in (*self._ages, *self._turns):
            entries_of_band.clear()
        self._held = self._passed_over = 0
        return items

    def _next_turn(self, band: int, tenant: str) -> int:
        last_turn, turn = self._last_turn[band], self._turn[band]
        turn = max(turn, last_turn.get(tenant, -1) + 1)
        last_turn[tenant] = turn
        if len(last_turn) > _TENANTS_KNOWN:
            now = self._turn[band]
            for who in [who for who, last in last_turn.items() if last < now]:
                del last_turn[who]
        return turn

    def _wait(self, entry: Entry[T]) -> None:
        self._ages[entry.band].append(entry)
        turns = self._turns[entry.band]
        if not turns or turns[-1].turn <= entry.turn:
            turns.append(entry)
        else:
            insort(turns, entry, key=TURN)

    def _share(self, entry: Entry[T], item: T, priority: int) -> None:
        """Add an item that shares this entry's output; the more urgent band of both applies."""
        if entry.sharers is None:
            entry.sharers = []
        entry.sharers.append(item)
        if priority < entry.band:
            entry.group.remove(entry)
            entry.band = priority
            entry.group.insert(entry)
            self._wait(entry)

    def _set_deadline(self, entry: Entry[T], deadline: float) -> None:
        if entry.deadline is None or deadline < entry.deadline:
            self._forget_deadline(entry)
            entry.deadline = deadline
            insort(self._deadlines, (deadline, entry.serial, entry))

    def _forget_deadline(self, entry: Entry[T]) -> None:
        if entry.deadline is not None:
            del self._deadlines[bisect_left(self._deadlines, (entry.deadline, entry.serial))]

    def _oldest(self) -> Entry[T] | None:
        oldest = None
        for ages in self._ages:
            while ages and ages[0].taken:
                ages.popleft()
            if ages and (oldest is None or ages[0].serial < oldest.serial):
                oldest = ages[0]
        return oldest

    def _first_in_turn(self) -> Entry[T]:
        for turns in self._turns:
            while turns and turns[0].taken:
                turns.popleft()
            if turns:
                return turns[0]
        raise LookupError("nothing waits")

    def _full_group(self) -> Group[T] | None:
        return next((home for home in self._groups.values() if home.fills(self.limits)), None)

    def _due_at(self, oldest: Entry[T]) -> float:
        """When waiting for more items ends."""
        due = oldest.arrived + self.limits.max_wait_ms / 1000
        if self.limits.target_latency_ms is not None:
            target = oldest.arrived + self.limits.target_latency_ms / 1000
            due = min(due, target - self.time.typical)
        if self._deadlines:
            due = min(due, self._deadlines[0][0] - self.time.typical)
        return due

    def _anchor(self, oldest: Entry[T], now: float) -> Entry[T]:
        if self._passed_over >= _PASSED_OVER:
            return oldest
        if self._deadlines and self._deadlines[0][0] <= now + 2 * self.time.typical:
            return self._deadlines[0][2]
        return self._first_in_turn()

    def _max_padded(self, anchor: Entry[T], now: float) -> float:
        """The largest padded cost within max_cost and, where possible, the anchor's times."""
        most = self.limits.max_cost or inf
        target_ms = self.limits.target_latency_ms
        target = None if target_ms is None else anchor.arrived + target_ms / 1000
        for end in (target, anchor.deadline):
            if end is not None:
                affordable = self.time.affordable(end - now)
                if affordable >= anchor.cost:
                    most = min(most, affordable)
        return most

    def _take(self, anchor: Entry[T], oldest: Entry[T], now: float) -> Batch[T]:
        home = anchor.group
        first = self._first_in_turn()
        self._turn[first.band] = max(self._turn[first.band], first.turn)
        home.remove(anchor)
        draft = Draft(anchor, self.limits, self._max_padded(anchor, now), self.time.overhead)
        for band in (home.bands[anchor.band], *home.bands):
            draft.fill_from(band)
        for entry in draft.entries:
            entry.taken = True
            if entry.key is not None:
                del home.by_key[entry.key]
            if entry.deadline is not None:
                self._forget_deadline(entry)
        home.count -= len(draft.entries)
        home.cost -= draft.total
        if not home.count and len(self._groups) > 1:
            del self._groups[home.name]
        self._passed_over = 0 if oldest.taken else self._passed_over + 1
        return self._batch(draft)

    def _batch(self, draft: Draft[T]) -> Batch[T]:
        entries = sorted(draft.entries, key=SERIAL)
        padded_cost, pads = draft.padded_cost, self.limits.pads
        if any(entry.sharers for entry in entries):
            runs = [entry.items() for entry in entries]
            batch = Batch([item for run in runs for item in run], padded_cost, runs, pads=pads)
        else:
            batch = Batch([entry.item for entry in entries], padded_cost, pads=pads)
        self._held -= len(batch)
        return batch

"""Which jobs of a lane join the rows of its generator, and when.

Pure, as the batcher: the time is passed in, and the scheduler calls it under the state's lock.

Jobs join one by one in the batcher's order, which is fair to tenants and bands. The first that does
not fit is waited for: smaller ones behind it would keep it out for good.

A suspect joins when nobody else is being proved, and is alone until its first token, as a model
that ends its process mostly does so over a prompt; on its last attempt it is alone to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.batching.batcher import BatchLimits
from worker.jobs.execution import Execution
from worker.lanes.rows import Rows
from worker.lanes.step import Step

if TYPE_CHECKING:
    from worker.lanes.lane import Lane

ONE_BY_ONE = BatchLimits(1, 0.0, None, None)


class Admission:
    """The jobs of one lane on their way to rows."""

    def __init__(self, rows: Rows, look_ahead: int, max_attempts: int) -> None:
        """look_ahead is how many jobs are held ready beside those on rows."""
        self.rows = rows
        self._look_ahead = look_ahead
        self._max_attempts = max_attempts
        self._former: Rows | None = None
        """Those of the model that served the lane before, while jobs are on them."""
        self._turn_of_former = False
        self._next: Execution | None = None
        """The next to join, taken from the batcher; it does not fit yet."""

    def serve(self, rows: Rows) -> None:
        """Join these rows from now on; jobs decoded for the others still run there."""
        if rows is not self.rows:
            self._former, self.rows = self.rows, rows

    def room(self, backlog: int) -> int:
        """How many jobs the lane may hold that are not on rows: for rows that are free, and a few
        more while it is deep. Else another worker may have a row sooner.
        """
        ahead = self._look_ahead if backlog else 0
        return max(0, self.rows.cap - self.rows.active) + ahead

    def waited(self, lane: Lane, now: float) -> float | None:
        """How long the lane has waited for a step; None where it has nothing to do."""
        busy = [one for one in (self.rows, self._former) if one and one.has_work]
        if busy:
            ready = [now - one.stepped_at for one in busy if not one.behind]
            return max(ready, default=None)
        oldest = lane.oldest()
        return None if oldest is None or self.rows.behind else now - oldest

    def oldest(self) -> float | None:
        """When the job arrived that is next."""
        return self._next.arrived if self._next else None

    def can_join(self, lane: Lane) -> bool:
        """Whether somebody could join now."""
        rows = self.rows
        if rows.is_closed or rows.active >= rows.cap:
            return False
        if self._next is not None:
            return _fits(rows, self._next, rows.cap - rows.active, rows.budget - rows.tokens)
        return bool(lane.suspects or len(lane.batcher))

    def next_step(self, lane: Lane, now: float) -> Step | None:
        """The step of the lane whose turn it is, with those that join at it."""
        for rows in self._in_turn(lane):
            if rows.behind:
                continue
            joining = self._joining(lane, rows, now)
            if joining or rows.has_work:
                return Step(joining, rows)
        return None

    def take_all(self) -> None:
        """Forget who is next; the worker stops."""
        self._next = None

    def _in_turn(self, lane: Lane) -> list[Rows]:
        former = self._former
        if former is None:
            return [self.rows]
        if not (former.has_work or any(_is_for(former, one) for one in lane.in_hand.values())):
            self._former = None
            return [self.rows]
        self._turn_of_former = not self._turn_of_former
        return [former, self.rows] if self._turn_of_former else [self.rows, former]

    def _joining(self, lane: Lane, rows: Rows, now: float) -> list[Execution]:
        if rows.is_closed:
            return []
        if lane.suspects and rows is self.rows:
            last = lane.suspects[0].attempt >= self._max_attempts
            if rows.active if last else rows.active >= rows.cap:
                return []
            return [lane.suspects.popleft()]
        joining: list[Execution] = []
        slots, tokens = rows.cap - rows.active, rows.budget - rows.tokens
        while slots > 0 and (one := self._first(lane, now)) is not None:
            if not _is_for(rows, one) or not _fits(rows, one, slots, tokens):
                break
            joining.append(one)
            self._next = None
            if one.disposition is None and rows.could_hold(choices_of(one), one.cost):
                slots, tokens = slots - choices_of(one), tokens - one.cost
        return joining

    def _first(self, lane: Lane, now: float) -> Execution | None:
        if self._next is None:
            found = lane.batcher.next_batch(now, device_idle=True)
            self._next = found[0] if found else None
        return self._next


def choices_of(execution: Execution) -> int:
    """How many rows a decoded job takes."""
    return int(execution.item.options.n)


def _is_for(rows: Rows, execution: Execution) -> bool:
    """Whether it was decoded for this generator."""
    handler: object = execution.handler
    return handler is rows.handler


def _fits(rows: Rows, execution: Execution, slots: int, tokens: float) -> bool:
    """Whether it has room; or needs none: it never will have any, or has ended, which is told at
    its admission. With nothing beside it, it may have more rows than there are now.
    """
    choices, cost = choices_of(execution), execution.cost
    if execution.disposition is not None or not rows.could_hold(choices, cost):
        return True
    alone = not rows.active and slots == rows.cap
    return (choices <= slots or alone) and cost <= tokens

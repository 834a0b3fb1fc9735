"""What steps have said and nobody has told yet, and when it is time to tell it.

The device's thread adds a round for each step; the teller's thread takes all there are. A text's
first tokens and its end are told at once. What comes between is told at most once in the pace: a
reader sees no difference between 50 and 500 updates a second, and each costs Redis, the API and the
reader as much as the next.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from worker.generation.generation import Generation, Token
from worker.lanes.rows import Rows


class Round(NamedTuple):
    """What one step said, and the jobs that have no rows any more."""

    tokens: Sequence[Token]
    ended: Sequence[Generation]

    @property
    def is_urgent(self) -> bool:
        """Whether it has the first tokens of a text, or the end of one."""
        return bool(self.ended) or not all(one.generation.telling.texts for one in self.tokens)


class Rounds:
    """Those of one worker."""

    def __init__(self, max_waiting: int, pace_seconds: float) -> None:
        """max_waiting is in steps; pace_seconds the least time from one taking to the next."""
        self._max_waiting = max_waiting
        self._pace_seconds = pace_seconds
        self._waiting: deque[Round] = deque()
        self._changed = threading.Condition()
        self._held: set[Rows] = set()
        """Generators whose lanes wait for room. Guarded by `_changed`."""
        self._taken_at = float("-inf")
        self._closed = False

    # -- on the device's thread ------------------------------------------------

    def offer(self, tokens: Sequence[Token], ended: Sequence[Generation]) -> None:
        """Hand over what a step said, and the jobs that have no rows any more."""
        if tokens or ended:
            said = Round(tokens, ended)
            with self._changed:
                self._waiting.append(said)
                if len(self._waiting) == 1 or said.is_urgent or self.is_behind:
                    self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many steps wait to be told."""
        return len(self._waiting)

    @property
    def is_behind(self) -> bool:
        """Whether too many steps wait to be told."""
        return len(self._waiting) >= self._max_waiting

    def hold(self, rows: Rows) -> None:
        """Have these lanes wait until half of them are told."""
        with self._changed:
            if self.is_behind:
                rows.behind, rows.waits = True, rows.waits + 1
                self._held.add(rows)

    def await_room(self, seconds: float) -> None:
        """Wait for that, at most so long."""
        with self._changed:
            if self.is_behind:
                self._changed.wait(seconds)

    # -- on the teller's -------------------------------------------------------

    def take(self) -> list[Round]:
        """All that waits, once it is time; empty once it was closed and nothing does."""
        with self._changed:
            while (seconds := self._seconds_left()) != 0.0:
                self._changed.wait(seconds)
            taken = [*self._waiting]
            self._waiting.clear()
            self._taken_at = time.monotonic()
            return taken

    def let_go(self) -> bool:
        """Have the lanes that were held go on; returns whether there were any."""
        with self._changed:
            held, self._held = self._held, set()
            for rows in held:
                rows.behind = False
            self._changed.notify_all()
        return bool(held)

    def close(self) -> None:
        """Wait for nothing any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _seconds_left(self) -> float | None:
        """How long to wait; None until something comes."""
        if self._closed or self.is_behind:
            return 0.0
        if not self._waiting:
            return None
        left = self._taken_at + self._pace_seconds - time.monotonic()
        if left <= 0 or any(one.is_urgent for one in self._waiting):
            return 0.0
        return left

"""What steps have said and nobody has told yet.

The device's thread adds a round for each step; the teller's thread takes all there are, at a time
of its own. Only what somebody waits for wakes it before: first words, ends, and tokens in which a
stop string may come, as its row goes on until that is found.
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


class Rounds:
    """Those of one worker."""

    def __init__(self, max_waiting: int) -> None:
        """max_waiting is in steps."""
        self._max_waiting = max_waiting
        self._waiting: deque[Round] = deque()
        self._changed = threading.Condition()
        self._is_urgent = False
        """Whether one of those that wait is not to wait."""
        self._held: set[Rows] = set()
        """Generators whose lanes wait for room. Guarded by `_changed`."""
        self.closed = False
        """Whether nobody waits for more."""

    # -- on the device's thread ------------------------------------------------

    def offer(self, tokens: Sequence[Token], ended: Sequence[Generation]) -> None:
        """Hand over what a step said, and the jobs that have no rows any more."""
        if tokens or ended:
            urgent = bool(ended) or any(map(_is_urgent, tokens))
            with self._changed:
                self._waiting.append(Round(tokens, ended))
                self._is_urgent = self._is_urgent or urgent
                if urgent or len(self._waiting) == 1 or self.is_behind:
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

    def take(self, at: float, *, anyway: bool) -> list[Round]:
        """All that waits at this time, or before it where that is urgent or too much.

        anyway: return then, though nothing waits; else wait for something. Empty once it was closed
        and nothing waits.
        """
        with self._changed:
            while not (self.closed or self._is_urgent or self.is_behind):
                left = at - time.monotonic() if self._waiting or anyway else None
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            taken, self._is_urgent = [*self._waiting], False
            self._waiting.clear()
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
            self.closed = True
            self._changed.notify_all()


def _is_urgent(token: Token) -> bool:
    generation = token.generation
    return not generation.telling.texts or bool(generation.prompt.options.stop)

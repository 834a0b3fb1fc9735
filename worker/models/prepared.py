"""Keeps decoded pictures and tokens, so that an input to two models or versions is decoded once.

One for the process. A handler says at load which kind of preparation it makes; only kinds that two
or more handlers make here are kept, so a worker of one model pays nothing for it. What is kept is
found by the content's digest, within a bound of bytes; the least recently used leave first. Tenants
share it: it holds what only their own bytes lead to, and a hit tells nothing but by its time.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

__all__ = ("PREPARED", "Prepared", "PreparedCounts")

T = TypeVar("T")

_ENTRY_BYTES = 600
"""About what an entry takes beside what it holds: keys, digest, a link each way."""
_LARGEST_SHARE = 0.25
"""Of the bound: one that is larger is not kept, as it would push out the others."""


@dataclass(frozen=True, slots=True)
class PreparedCounts:
    """What it did since the start, and what it holds."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0


class Prepared:
    """Safe on any thread. Two threads that miss at once both prepare: neither waits."""

    def __init__(self, max_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._makers: Counter[Hashable] = Counter()
        self._gone: deque[Hashable] = deque()
        """Kinds of which a handler has left since `_sweep`."""
        self._lock = threading.Lock()
        self._hits = self._misses = self._bytes = 0

    def join(self, handler: object, kind: Hashable) -> None:
        """Say that a handler makes this kind of preparation, for as long as it lives."""
        with self._lock:
            self._sweep()
            self._makers[kind] += 1
        weakref.finalize(handler, self._leave, kind).atexit = False

    def _leave(self, kind: Hashable) -> None:
        """Called where the collector runs: maybe within the lock, on the thread that holds it."""
        self._gone.append(kind)
        if self._lock.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self._lock.release()

    def _sweep(self) -> None:
        """Forget what the last handler but one of a kind left behind. Holding the lock."""
        while self._gone:
            kind = self._gone.popleft()
            self._makers[kind] -= 1
            if self._makers[kind] <= 1:
                for key in [one for one in self._kept if one[0] == kind]:  # type: ignore[index]
                    self._bytes -= self._kept.pop(key)[1]

    def keeps(self, kind: Hashable) -> bool:
        """Whether what is made of this kind may be kept for another handler."""
        return bool(self.max_bytes) and self._makers[kind] > 1

    def get(
        self,
        kind: Hashable,
        content: bytes | str,
        make: Callable[[], T],
        size: Callable[[T], int],
        variant: Hashable = None,
    ) -> T:
        """What `make` returns for the content, made or kept; nobody may change it.

        kind: one that was joined; with `variant` it is all that determines the outcome beside the
        content. size: its bytes. Whatever `make` raises is raised and nothing is kept.
        """
        if not self.keeps(kind):
            return make()
        same = content if isinstance(content, str) else blake2b(content).digest()
        key = (kind, variant, same)
        with self._lock:
            self._sweep()
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                self._hits += 1
                kept: T = found[0]
                return kept
        made = make()
        taken = size(made) + _ENTRY_BYTES + (sys.getsizeof(content) if same is content else 0)
        with self._lock:
            self._misses += 1
            self._sweep()
            fits = taken <= self.max_bytes * _LARGEST_SHARE and self.keeps(kind)
            if fits and key not in self._kept:
                self._kept[key] = (made, taken)
                self._bytes += taken
                while self._bytes > self.max_bytes:
                    self._bytes -= self._kept.popitem(last=False)[1][1]
        return made

    def counts(self) -> PreparedCounts:
        """What it did and holds."""
        return PreparedCounts(self._hits, self._misses, self._bytes)


PREPARED = Prepared()
"""This process' own; `max_bytes` is set before any model loads."""

"""Which call of a model's code each thread is in, since when.

Each thread stores its own call, so that one watchdog can bound them all without a timer per
call; a call costs two stores, one of them in the marks that outlive the process.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from common.catalog import ModelSpec
from worker.guard.limits import Verb, VerbLimits
from worker.guard.marks import Marks


class Call(NamedTuple):
    """A verb of a model that a thread is in, since this steady time."""

    verb: Verb
    spec: ModelSpec
    began: float
    about: Any = None
    """What its owner needs to know of it."""

    def text(self, seconds: float, limit: float) -> str:
        """One sentence for people."""
        return (
            f"{self.verb} of {self.spec.name} has run for {seconds:.3g} s; its limit is {limit:g} s"
        )


_new_tuple = tuple.__new__  # half the time of the class's own


class Slot:
    """The call of one thread; written by that thread alone, but for `free`."""

    __slots__ = ("_marks", "_number", "_spec", "_verb", "_word", "_words", "call", "thread")

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._words = marks.words
        self._number = marks.take_slot()
        self._spec: ModelSpec | None = None
        self._verb: Verb | None = None
        self._word = 0
        self.call: Call | None = None
        self.thread: threading.Thread | None = None

    def enter(self, verb: Verb, spec: ModelSpec, began: float, about: Any = None) -> None:
        """The calling thread begins this call."""
        if spec is not self._spec or verb is not self._verb:
            self._spec, self._verb = spec, verb
            self._word = self._marks.call(verb, spec.name)
            self.thread = threading.current_thread()
        self._words[self._number] = self._word
        self.call = _new_tuple(Call, (verb, spec, began, about))

    def leave(self) -> None:
        """The call has ended."""
        self.call = None
        self._words[self._number] = 0

    def free(self) -> None:
        """Its thread was abandoned, or has ended."""
        self.call = None
        self._marks.give_back(self._number)


class Calls:
    """The slots of one process, and the threads that were left in a call for good."""

    def __init__(self, limits: VerbLimits, marks: Marks) -> None:
        self.limits = limits
        self.marks = marks
        self._slots: list[Slot] = []
        self._lock = threading.Lock()
        self._left_behind: list[tuple[threading.Thread, Call]] = []

    def new_slot(self) -> Slot:
        """A slot for a thread that calls models."""
        slot = Slot(self.marks)
        with self._lock:
            self._slots.append(slot)
        return slot

    def abandon(self, slot: Slot, call: Call) -> None:
        """Count the slot's thread as one that will not come back."""
        thread = slot.thread
        slot.free()
        with self._lock:
            if slot in self._slots:
                self._slots.remove(slot)
            if thread is not None:
                self._left_behind.append((thread, call))

    def discard(self, slot: Slot) -> None:
        """Its thread has no more use for it."""
        slot.free()
        with self._lock:
            if slot in self._slots:
                self._slots.remove(slot)

    def overdue(self, slot: Slot, now: float) -> Call | None:
        """Its call, where that takes longer than its limit."""
        call = slot.call
        if call is None or now - call.began <= self.limits.of(call.verb, call.spec):
            return None
        return call

    def left_behind(self) -> list[Call]:
        """The calls whose abandoned threads are still in them."""
        with self._lock:
            self._left_behind = [one for one in self._left_behind if one[0].is_alive()]
            return [call for _, call in self._left_behind]

    def slow(self, now: float | None = None) -> list[str]:
        """A sentence for each call that has taken more than half of its limit.

        Not for decode and encode, of which a thread does many in a row, and which are replaced.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            calls = [slot.call for slot in self._slots]
        said = []
        for call in calls:
            if call is None or call.verb in ("decode", "encode"):
                continue
            seconds, limit = now - call.began, self.limits.of(call.verb, call.spec)
            if seconds > limit / 2:
                said.append(call.text(seconds, limit))
        return said


def stack_of(thread: threading.Thread | None) -> str:
    """Where a thread is now, as a traceback; empty where it has ended."""
    frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None
    return "".join(traceback.format_stack(frame)) if frame is not None else ""


def names_of(calls: Sequence[Call]) -> list[str]:
    """`verb model` of each, for a log line."""
    return [f"{call.verb} {call.spec.name}" for call in calls]

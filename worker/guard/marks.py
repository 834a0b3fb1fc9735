"""Marks in memory that outlives the process: which model's code runs, in which verb.

A model can end its process in ways that no handler sees: a signal, `os._exit`, the kernel's want
of memory. The supervisor shares a block of memory with the process it starts, and reads after its
end what ran. A mark costs one store, so batches can afford it.

| words (4 bytes each) | hold                                                       |
|----------------------|------------------------------------------------------------|
| 0                    | a count that the watchdog raises while Python code can run |
| 1                    | the call for which the process ends itself                 |
| 2 to 61              | one call for each thread that runs models                  |
| 62                   | 1 once the process has come to its end in good order       |
| 63                   | the length of the names                                    |
| 64 to 1087           | what happened to each model since the start                |
| from 1088            | the models' names, JSON                                    |

A call is 0, or the model's number from 1 times 16, plus the verb's from 1.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Final, NamedTuple, get_args

from worker.guard.limits import Verb

VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
_BEAT, _CULPRIT, _FIRST_SLOT, _ORDERLY, _LENGTH = 0, 1, 2, 62, 63
_STATES, _NAMES = 64, 1088
_WORDS: Final = 16_384
_LOADED, _FORGIVEN = 1, 2


class Ran(NamedTuple):
    """A verb of a model that was being called."""

    verb: Verb
    model: str


class Evidence(NamedTuple):
    """What a process that ended left behind."""

    culprit: Ran | None
    """The call for which it ended itself."""
    running: list[Ran]
    loaded: frozenset[str]
    """Models that were loaded and warmed up during its life."""
    reset: frozenset[str]
    """Models that an operator asked for by hand."""
    orderly: bool = False
    """Whether it came to its end in good order: else its status may be of a model's making."""


class Marks:
    """The block, for its writer and its reader. One without a supervisor is written to as well."""

    def __init__(self, descriptor: int | None = None) -> None:
        """descriptor is of a file from `shared_file`, which both processes map."""
        size = _WORDS * 4
        block = bytearray(size) if descriptor is None else mmap.mmap(descriptor, size)
        self._bytes = memoryview(block)
        self.words = self._bytes.cast("I")
        """A thread stores its calls in the word of its slot by itself: a batch pays for no more."""
        self._numbers: dict[str, int] = {}
        self._free = list(range(_ORDERLY - 1, _FIRST_SLOT - 1, -1))

    # -- in the process that runs models -----------------------------------

    def name(self, models: Sequence[str]) -> None:
        """Write the models' names, before any is marked; those that do not fit are not marked."""
        known = list(models[: _NAMES - _STATES])
        while len(text := json.dumps(known).encode()) > (_WORDS - _NAMES) * 4:
            known = known[: len(known) // 2]
        self._bytes[_NAMES * 4 : _NAMES * 4 + len(text)] = text
        self.words[_LENGTH] = len(text)
        self._numbers = {model: number for number, model in enumerate(known, 1)}

    def take_slot(self) -> int:
        """A slot for one thread; the last is shared once all are taken."""
        return self._free.pop() if len(self._free) > 1 else self._free[0]

    def give_back(self, slot: int) -> None:
        """Clear a slot for another thread."""
        self.words[slot] = 0
        if slot not in self._free:
            self._free.append(slot)

    def call(self, verb: Verb, model: str) -> int:
        """The word for this call; 0 where its model has no number."""
        number = self._numbers.get(model, 0)
        return number * 16 + VERBS.index(verb) + 1 if number else 0

    def beat(self) -> None:
        """Mark that Python code can still run."""
        self.words[_BEAT] = (self.words[_BEAT] + 1) % 2**32 or 1

    def blame(self, verb: Verb, model: str) -> None:
        """Mark this call as the one for which the process ends itself."""
        self.words[_CULPRIT] = self.call(verb, model)

    def say_goodbye(self) -> None:
        """Mark that the process ends in good order."""
        self.words[_ORDERLY] = 1

    def loaded(self, model: str) -> None:
        """Mark that it was loaded and warmed up."""
        self._set_state(model, _LOADED)

    def reset(self, model: str) -> None:
        """Mark that an operator asked for it."""
        self._set_state(model, _FORGIVEN)

    def _set_state(self, model: str, state: int) -> None:
        if number := self._numbers.get(model):
            self.words[_STATES + number - 1] |= state

    # -- in the supervisor --------------------------------------------------

    @property
    def beats(self) -> int:
        """The count of beats; 0 before the first."""
        return self.words[_BEAT]

    def read(self) -> Evidence:
        """What the process left behind; nothing of what cannot be read."""
        names: list[str] = []
        with contextlib.suppress(ValueError):
            found = json.loads(bytes(self._bytes[_NAMES * 4 :][: self.words[_LENGTH]]))
            names = [str(name) for name in found]
        calls = [self._ran(word, names) for word in self.words[_FIRST_SLOT:_ORDERLY]]
        states = list(zip(names, self.words[_STATES:_NAMES], strict=False))
        return Evidence(
            self._ran(self.words[_CULPRIT], names),
            list(dict.fromkeys(call for call in calls if call)),
            frozenset(name for name, state in states if state & _LOADED),
            frozenset(name for name, state in states if state & _FORGIVEN),
            bool(self.words[_ORDERLY]),
        )

    def clear(self) -> None:
        """Forget everything, before the next process starts."""
        self._bytes[:] = bytes(len(self._bytes))

    @staticmethod
    def _ran(word: int, names: Sequence[str]) -> Ran | None:
        number, verb = divmod(word, 16)
        if not 0 < number <= len(names) or not 0 < verb <= len(VERBS):
            return None
        return Ran(VERBS[verb - 1], names[number - 1])


def shared_file() -> int:
    """A descriptor of a new file for the block, without a name; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("lanefleet-marks")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _WORDS * 4)
    return descriptor

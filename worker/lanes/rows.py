"""How much of a generator is taken: its rows, and the tokens that these may come to hold.

Numbers only. The device's thread writes them; others read them under the state's lock, or one step
late. Lanes that one model serves (its own, and those of its aliases) share them.
"""

from __future__ import annotations

from common.catalog import ModelSpec
from worker.models.generator import Generator

_CLEAN_STEPS = 256
"""After so many steps without a fault twice the rows are tried again."""
_CLOSE_STEPS = 16
"""Faults closer than this are one."""


class Rows:
    """The rows of one generator."""

    def __init__(self, handler: Generator, spec: ModelSpec) -> None:
        """handler is loaded."""
        self.handler = handler
        self.spec = spec
        self.slots = max(1, handler.slots)
        self.budget = float(handler.budget_tokens)
        self.cap = self.slots
        """Most rows at once now: fewer after steps failed for their number."""
        self.active = 0
        self.tokens = 0.0
        """What the jobs on these rows may come to hold, prompt and answer."""
        self.parked = 0
        """Jobs that were on rows and wait for room to go on, before any other."""
        self.proving: bytes = b""
        """The tag of a suspect that is alone until its first token."""
        self.alone = False
        """Whether a suspect on its last attempt is here: nobody joins it until its end."""
        self.behind = False
        """Whether too many steps wait to be written."""
        self.waits = 0
        """How often that was so."""
        self.steps = 0
        self.stepped_at = 0.0
        """When the last step ended, steady time."""
        self._clean = _CLEAN_STEPS

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self.active > 0 or self.parked > 0

    @property
    def is_closed(self) -> bool:
        """Whether nobody may join now."""
        return bool(self.proving or self.alone or self.parked)

    def has_room(self, choices: int, tokens: float) -> bool:
        """Whether a job of so many rows and tokens may be put on the device now."""
        return self.active + choices <= self.cap and self.tokens + tokens <= self.budget

    def could_hold(self, choices: int, tokens: float) -> bool:
        """Whether it fits at all, with nothing beside it."""
        return choices <= self.slots and tokens <= self.budget

    def took(self, choices: int, tokens: float) -> None:
        """A job was put on the device."""
        self.active += choices
        self.tokens += tokens

    def gave_back(self, choices: int, tokens: float) -> None:
        """Rows of a job were dropped; its tokens with the last of them."""
        self.active -= choices
        self.tokens = self.tokens - tokens if self.active else 0.0

    def stepped(self, now: float) -> None:
        """A step has ended."""
        self.steps += 1
        self.stepped_at = now
        self._clean += 1
        if self.cap < self.slots and self._clean >= _CLEAN_STEPS:
            self.cap, self._clean = min(self.slots, self.cap * 2), 0

    def faulted(self, *, of_size: bool, found: bool) -> bool:
        """A step raised: of_size, for want of memory; found, whether some job was at fault. Returns
        whether there are fewer rows from now on: for want of memory, or where steps raise again and
        again and no job does so alone.
        """
        lower = of_size or (not found and self._clean < _CLOSE_STEPS)
        self._clean = 0
        if lower:
            self.cap = max(1, self.cap // 2)
        return lower

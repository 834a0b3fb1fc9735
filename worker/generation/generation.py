"""One job from its admission to its end, as the device's thread and the teller's know it.

Each field has one writer. What goes from one thread to the other goes through the teller's queue,
but for two fields of `Telling`, which the device's thread reads between steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from common.generation.said import Delta
from worker.jobs.execution import Execution
from worker.lanes.lane import Lane
from worker.models.generator import Choice, Finish, Generator, Prompt, Text, TokenChance

Cut = Literal["", "deadline", "release"]
"""How it ended before its model said so: with what it has said, or to go on elsewhere."""


@dataclass(eq=False, slots=True)
class Telling:
    """What the teller's thread knows of one job."""

    texts: list[Text] = field(default_factory=list)
    """By choice; empty before its first token."""
    choices: list[Choice] = field(default_factory=list)
    entry: int = 0
    """The number of the last entry of its stream."""
    deltas: dict[int, Delta] = field(default_factory=dict)
    """By choice, what was said and not yet written."""
    stopped: set[int] = field(default_factory=set)
    """Choices that a stop string ended; their rows are to be dropped."""
    submitted: bool = False
    """Whether the finisher has it; its rows are to be dropped."""

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return bool(self.choices) and all(one.finish for one in self.choices)


@dataclass(eq=False, slots=True)
class Generation:
    """One job on the device, or parked beside it."""

    lane: Lane
    execution: Execution
    handler: Generator
    prompt: Prompt
    telling: Telling = field(default_factory=Telling)
    rows: dict[int, int] = field(default_factory=dict)
    """By choice, its row; those that have ended have none."""
    said: dict[int, list[int]] = field(default_factory=dict)
    """By choice, all tokens so far."""
    ended: set[int] = field(default_factory=set)
    """Choices that need no row any more."""
    began: float = 0.0
    """When it was first admitted, steady time."""
    first_at: float = 0.0
    """When its first token was there."""
    cut: Cut = ""

    @property
    def has_ended(self) -> bool:
        """Whether no choice needs a row."""
        return len(self.ended) == self.prompt.options.n

    @property
    def streams(self) -> bool:
        """Whether what it says can be read as it comes."""
        return self.prompt.options.stream


class Token(NamedTuple):
    """What a step added to one choice."""

    generation: Generation
    choice: int
    token: int
    finish: Finish | None
    logprob: float | None
    top: tuple[TokenChance, ...]


def generation_of(lane: Lane, execution: Execution) -> Generation:
    """A decoded job that is about to be admitted; what it said elsewhere is its beginning."""
    prompt: Prompt = execution.item
    options = prompt.options
    if not options.repeatable:
        execution.digest = ""  # whoever joined it, or was given its result, would be told its luck
    prompt.seed = seed_of(execution.job_id) if options.seed is None else options.seed
    handler: Any = execution.handler
    made = Generation(lane, execution, handler, prompt)
    made.said = {choice: [] for choice in range(options.n)}
    for choice, before in (execution.said or {}).items():
        if choice in made.said:
            made.said[choice] = list(before.tokens)
            if before.finish:
                made.ended.add(choice)
    made.telling.entry = execution.said_entries
    return made


def seed_of(job_id: str) -> int:
    """The seed of a job that names none: the same on every worker."""
    digest = blake2b(job_id.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

"""The Generator protocol: the interface of a model whose work is steps rather than batches.

Rows stay on the device across steps: `admit` puts a prompt's rows there, `step` advances all of
them, `drop` frees one. All three run on the device thread alone. `decode`, `cost`, `text` and
`encode` may run on any thread and must not touch the device.

A generator is given what a job has said already (`Prompt.said`) where another worker began it, or
where it is admitted once more: the text goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard

from common.catalog import ModelSpec
from common.errors import InferenceFailed
from common.generation.options import GenerateOptions

GENERATOR_VERBS = ("load", "decode", "cost", "admit", "step", "drop", "text", "encode")

_TOLD_BY = "admit"
"""The verb that no Model has."""

Finish = Literal["stop", "length"]
"""Why a choice ended: an end-of-text token or a stop string, or max_tokens and the context."""


@dataclass(eq=False, slots=True)
class Prompt:
    """One job's decoded input; `decode` makes it."""

    tokens: tuple[int, ...]
    options: GenerateOptions
    seed: int = 0
    """Set before `admit`: the request's, or one made of the job's id."""
    said: dict[int, list[int]] = field(default_factory=dict)
    """By choice, the tokens that were published before; they are not to be said again."""
    extra: Any = None
    """The generator's own."""


class TokenChance(NamedTuple):
    """A token with the natural logarithm of its probability."""

    token: int
    logprob: float


class Advance(NamedTuple):
    """What one step added to one row. A row that still reads its prompt has none."""

    row: int
    token: int
    finish: Finish | None = None
    """Set with the row's last token; the row is still to be dropped."""
    logprob: float | None = None
    """Of the token, where logprobs were asked for."""
    top: tuple[TokenChance, ...] = ()


class RowsFailed(InferenceFailed):
    """Some rows of a step failed for reasons of their own; it is as if the others ran without.

    Who does not know it may treat it as any error of `step`: every row alone, from what it has
    said, gives the same tokens again, and the same rows fail.
    """

    retryable = False

    def __init__(self, reasons: Mapping[int, str], advances: Sequence[Advance] = ()) -> None:
        super().__init__("; ".join(dict.fromkeys(reasons.values())))
        self.reasons = reasons
        """By row, why it failed; the row is still to be dropped."""
        self.advances = advances
        """What the step added to the others."""


class Piece(NamedTuple):
    """Text that may be sent: whole characters, of which no stop string can still be part."""

    text: str
    finish: Finish | None = None


class Text(Protocol):
    """Turns one choice's tokens into text, as they come; off the device thread."""

    def feed(self, token: int, finish: Finish | None) -> Piece:
        """The text that this token makes certain. `finish` in the answer is "stop" at a stop
        string, whose text is left out unless asked for.

        It may also have `flush() -> str`: what it still holds back, where the choice is cut short.
        """


class Generator(Protocol):
    """The interface of a generator. It is constructed without arguments."""

    slots: int
    """Rows at once; known after `load`."""
    budget_tokens: int
    """Tokens that all rows together may hold (prompt and answer); known after `load`."""

    def load(self, spec: ModelSpec, device: str) -> None:
        """As a Model's."""

    def decode(self, value: Any, params: Mapping[str, Any]) -> Prompt:
        """Tokens and checked options of one job. Raises InvalidInput (`prompt_too_long`)."""

    def cost(self, prompt: Prompt) -> float:
        """The tokens it may come to hold, over all choices."""

    def admit(self, prompt: Prompt) -> Sequence[int]:
        """Give it a row for each choice; returns the rows. Whoever calls has looked at `slots` and
        `budget_tokens`. What it raises is this prompt's failure alone."""

    def step(self) -> Sequence[Advance]:
        """Read a chunk of the prompts that wait, and add a token to every row that has read its
        own. Raises RowsFailed where some rows are at fault."""

    def drop(self, row: int) -> None:
        """Free a row, wherever it is."""

    def text(self, prompt: Prompt, choice: int) -> Text:
        """The text of one choice, from its beginning."""

    def token_text(self, token: int) -> str:
        """One token as text, for logprobs."""

    def encode(self, output: Any) -> Any:
        """The result of a job, JSON. Its argument is a Generated."""


@dataclass(slots=True)
class Choice:
    """One finished answer."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    """`stop`, `length` or `deadline`."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Generated:
    """What `encode` gets: all of a job's choices."""

    prompt: Prompt
    choices: list[Choice]
    first_token_seconds: float = 0.0
    """From the job's reservation to its first token."""


def is_generator(handler: object) -> TypeGuard[Generator]:
    """Whether this handler, or class of one, is a Generator rather than a Model."""
    return callable(getattr(handler, _TOLD_BY, None))

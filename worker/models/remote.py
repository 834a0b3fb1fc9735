"""The RemoteGenerator protocol: the interface of a model that runs in a server of its own.

Its jobs never come to the device thread: the lane gives it as many as it has slots, and it answers
all of them at once on an event loop of its own. `decode`, `cost` and `encode` are as a Model's;
`answer` runs on that loop, and everything else may be called on any thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeGuard

from common.catalog import ModelSpec
from common.generation.options import GenerateOptions
from worker.models.generator import Finish

REMOTE_VERBS = ("load", "decode", "cost", "answer", "recovered", "on_change", "encode")
_TOLD_BY = ("answer", "recovered")
"""Verbs that no Model has both of."""


@dataclass(eq=False, slots=True)
class Request:
    """One job's decoded input; `decode` makes it."""

    options: GenerateOptions
    prompt: str | tuple[int, ...] | None = None
    """The text or its tokens; None where there are messages."""
    messages: tuple[Mapping[str, str], ...] = ()
    seed: int = 0
    """Set before `answer`: the request's, or one made of the job's id."""

    @property
    def echoed(self) -> str:
        """What the text begins with, before anything is generated."""
        return self.prompt if self.options.echo and isinstance(self.prompt, str) else ""


class Delta(NamedTuple):
    """What was added to one choice: whole characters."""

    choice: int
    text: str
    tokens: tuple[int, ...] = ()
    """Its tokens' ids, where the server tells them."""
    logprobs: tuple[dict[str, Any], ...] = ()
    finish: Finish | None = None


@dataclass(slots=True)
class Spoken:
    """What one choice has said so far; the prompt that is echoed is not part of it."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    count: int = 0
    """Tokens, counted by the server's words where it does not tell their ids."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str = ""
    """`stop`, `length` or `deadline`; empty while it goes on."""


@dataclass(slots=True)
class Answer:
    """All choices of one job, kept over the attempts at it; what `encode` gets."""

    request: Request
    choices: list[Spoken]
    streamed: bool = False
    """Whether readers have seen what it has said: then no other text may take its place."""
    begun: bool = False
    """Whether the prompt was echoed."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def to(cls, request: Request, *, streamed: bool) -> Answer:
        """An answer to which nothing is said yet."""
        choices = [Spoken() for _ in range(request.options.n)]
        return cls(request, choices, streamed=streamed)

    @property
    def finished(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish for choice in self.choices)


Emit = Callable[[Delta], None]


class RemoteGenerator(Protocol):
    """The interface of a model in a server. It is constructed without arguments."""

    taken: int
    """Jobs that it has; 0 at first, counted by its lanes under the worker's lock."""
    most: int
    """`slots` while it is healthy; known after `load`."""
    seeds: int
    """Seeds are below this."""
    patience_seconds: float
    """How long jobs wait here for a server that does not answer, before other workers get them."""
    loop: asyncio.AbstractEventLoop
    """Where `answer` runs; known after `load`."""

    @property
    def slots(self) -> int:
        """Jobs at once, now: none while the server is not healthy."""

    def load(self, spec: ModelSpec, device: str) -> None:
        """Start it, or find it; returns when it can answer."""

    def decode(self, value: Any, params: Mapping[str, Any]) -> Request:
        """The checked request. Raises InvalidInput, also for options that the server lacks."""

    def cost(self, item: Request) -> float:
        """The tokens it may come to hold, about."""

    async def answer(self, answer: Answer, emit: Emit) -> None:
        """Go on with this answer to its end; what is added is told to `emit` as it comes.

        Raises InvalidInput for what the server does not take, ServerFailed where another attempt
        may succeed, and AnswerLost where none can.
        """

    async def recovered(self) -> bool:
        """After ServerFailed: false where the server itself is well, and so the job may be at
        fault; else true, once it answers again.
        """

    def on_change(self, tell: Callable[[], None]) -> None:
        """Have this called when `slots` may have changed."""

    def encode(self, output: Answer) -> Any:
        """The result of a job, JSON."""

    def unload(self) -> None:
        """End it, where we started it."""


def is_remote(handler: object) -> TypeGuard[RemoteGenerator]:
    """Whether this handler, or class of one, is a RemoteGenerator rather than a Model."""
    return all(callable(getattr(handler, verb, None)) for verb in _TOLD_BY)

"""A generator without a model: a token is a formula of prompt, seed, choice and position.

For tests that are about the queue rather than about a network: any process can work out what a
prompt is answered (`text_of`), and a step takes as long as the catalog says.

options of the catalog: slots (16), budget_tokens (1,000,000), step_ms (0), chunk (64: tokens of a
prompt that a row reads in one step), max_positions (of prompt and answer; 4096).

Words of a prompt that begin with `!` ask for more, some at a token, counted from 0:
`!raise-admit`, `!oom` (raises out of memory at admit, while other rows are held), `!oom-always`,
`!raise-step:N`, `!nan:N`, `!once-step:N` (the first time in this process), `!die:N` (SIGKILL),
`!hang:N` (its step sleeps), `!raise-text:N`, `!hang-text:N`, `!end:N` (an end of text), `!endless`
(no end by itself).
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from common.catalog import ModelSpec
from common.errors import DeviceOutOfMemory, InvalidInput, PromptTooLong
from common.generation.options import read_options
from worker.models.generation.result import result_of
from worker.models.generator import Advance, Finish, Generated, Piece, Prompt, Text, TokenChance

_TEXT = (
    "a an the one some our far near old new red blue calm loud warm cold river hill road lamp "
    "bird stone cloud boat field glass bread clock tree door song voice night morning winter rain "
    "goes comes falls turns waits sings opens burns grows sleeps over under through beside before "
    "after slowly soon again never always there here and but so ä 漢字 🙂"
)
WORDS = tuple(_TEXT.split())
"""The vocabulary: a token is the number of a word."""
END = len(WORDS)
"""The end of text; it has no text."""


def prompt_tokens(text: str) -> tuple[int, ...]:
    """A token for each word, whatever it is."""
    return tuple(_digest(word.encode()) % len(WORDS) for word in text.split())


def token_at(prompt: Sequence[int], seed: int, choice: int, position: int) -> int:
    """The token at this position of an answer."""
    about = f"{list(prompt)} {seed} {choice} {position}".encode()
    return _digest(about) % len(WORDS)


def text_of(text: str, count: int, *, seed: int = 0, choice: int = 0) -> str:
    """The answer to a prompt, without stop strings; seed is 0 at temperature 0."""
    prompt = prompt_tokens(text)
    return "".join(
        WORDS[token_at(prompt, seed, choice, position)] + " " for position in range(count)
    )


def _digest(about: bytes) -> int:
    return int.from_bytes(blake2b(about, digest_size=6).digest(), "big")


@dataclass(eq=False, slots=True)
class _Row:
    prompt: Prompt
    choice: int
    seed: int
    unread: int
    """Tokens of the prompt, and of what was said, that it has not read."""
    position: int
    """The next token's, counted over all that was said."""
    wishes: Mapping[str, int]


@dataclass(eq=False, slots=True)
class _Said:
    """The text of one choice."""

    prompt: Prompt
    wishes: Mapping[str, int]
    held: str = ""
    """What may be the beginning of a stop string."""
    count: int = 0

    def feed(self, token: int, finish: Finish | None) -> Piece:
        self._misbehave()
        self.count += 1
        options = self.prompt.options
        text = self.held + (WORDS[token] + " " if token < END else "")
        found = [(at, one) for one in options.stop if (at := text.find(one)) >= 0]
        if found:
            at, stop = min(found)
            self.held = ""
            return Piece(text[: at + len(stop) if options.include_stop else at], "stop")
        keep = 0 if finish else max((_overlap(text, stop) for stop in options.stop), default=0)
        self.held = text[len(text) - keep :]
        return Piece(text[: len(text) - keep], finish)

    def flush(self) -> str:
        held, self.held = self.held, ""
        return held

    def _misbehave(self) -> None:
        if self.wishes.get("raise-text") == self.count:
            raise ValueError("this token has no text")
        if self.wishes.get("hang-text") == self.count:
            time.sleep(60)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text are a beginning of the stop string."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


class NullGenerator:
    """Answers words by formula."""

    slots = 16
    budget_tokens = 1_000_000

    def __init__(self) -> None:
        self.rows: dict[int, _Row] = {}
        self.steps = 0
        self._raised: set[str] = set()

    def load(self, spec: ModelSpec, device: str) -> None:
        options = spec.options
        self.slots = options.get("slots", 16)
        self.budget_tokens = options.get("budget_tokens", 1_000_000)
        self._step_seconds = options.get("step_ms", 0) / 1000
        self._chunk = options.get("chunk", 64)
        self._max_positions = options.get("max_positions", 4096)

    def example(self) -> Any:
        return "a warm morning"

    def decode(self, value: Any, params: Mapping[str, Any]) -> Prompt:
        options = read_options(params)
        found = value.get("prompt") if isinstance(value, dict) else value
        if isinstance(value, dict) and "messages" in value:
            found = " ".join(f"{one['role']}: {one['content']}" for one in value["messages"])
        if isinstance(found, str):
            wishes = dict(_wish(word) for word in found.split() if word.startswith("!"))
            tokens = prompt_tokens(found)
        elif isinstance(found, list) and all(type(one) is int for one in found):
            wishes, tokens = {}, tuple(found)
        else:
            raise InvalidInput("send a text, a list of tokens as `prompt`, or `messages`")
        if len(tokens) >= self._max_positions:
            raise PromptTooLong(f"the prompt has {len(tokens)} tokens of {self._max_positions}")
        return Prompt(tokens, options, extra=(found, wishes))

    def cost(self, prompt: Prompt) -> float:
        return float(prompt.options.n * (len(prompt.tokens) + prompt.options.max_tokens))

    def admit(self, prompt: Prompt) -> Sequence[int]:
        _, wishes = prompt.extra
        if "raise-admit" in wishes:
            raise ValueError("this prompt cannot be admitted")
        if "oom-always" in wishes or ("oom" in wishes and self.rows):
            raise DeviceOutOfMemory("there is no memory for this prompt")
        options = prompt.options
        if len(self.rows) + options.n > self.slots:
            raise AssertionError("more rows than there are slots")
        seed = 0 if options.temperature == 0 else prompt.seed
        free = (row for row in range(self.slots) if row not in self.rows)
        taken = [next(free) for _ in range(options.n)]
        for choice, row in enumerate(taken):
            said = prompt.said.get(choice, ())
            unread = len(prompt.tokens) + len(said)
            self.rows[row] = _Row(prompt, choice, seed, unread, len(said), wishes)
        return taken

    def step(self) -> Sequence[Advance]:
        self.steps += 1
        if self._step_seconds:
            # libfaketime, under which tests run it too, fails the absolute sleeps of time.sleep.
            select.select((), (), (), self._step_seconds)
        ready = []
        for number, row in self.rows.items():
            row.unread -= min(row.unread, self._chunk)
            if not row.unread:
                ready.append((number, row))
        for _, row in ready:
            self._misbehave(row)
        return [self._advance(number, row) for number, row in ready]

    def _advance(self, number: int, row: _Row) -> Advance:
        options, position = row.prompt.options, row.position
        row.position += 1
        if row.wishes.get("end") == position:
            return Advance(number, END, "stop")
        token = token_at(row.prompt.tokens, row.seed, row.choice, position)
        last = row.position >= options.max_tokens and "endless" not in row.wishes
        finish: Finish | None = "length" if last else None
        if options.logprobs is None:
            return Advance(number, token, finish)
        top = tuple(
            TokenChance((token + one) % len(WORDS), -0.5 - one) for one in range(options.logprobs)
        )
        return Advance(number, token, finish, -0.5, top)

    def _misbehave(self, row: _Row) -> None:
        asked = {name for name, at in row.wishes.items() if at == row.position}
        if "die" in asked:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in asked:
            time.sleep(60)
        if "nan" in asked:
            raise ArithmeticError("the logits of a row are not numbers")
        if "raise-step" in asked:
            raise RuntimeError("this row cannot go on")
        if "once-step" in asked and (name := str(row.prompt.extra[0])) not in self._raised:
            self._raised.add(name)
            raise RuntimeError("a fault that passes")

    def drop(self, row: int) -> None:
        del self.rows[row]

    def text(self, prompt: Prompt, choice: int) -> Text:
        _, wishes = prompt.extra
        made = _Said(prompt, wishes)
        if prompt.options.echo and isinstance(prompt.extra[0], str):
            made.held = prompt.extra[0] + " "
        return made

    def token_text(self, token: int) -> str:
        return WORDS[token] + " " if token < END else ""

    def encode(self, output: Generated) -> Any:
        return result_of(output)


def _wish(word: str) -> tuple[str, int]:
    name, _, at = word[1:].partition(":")
    return name, int(at or 0)

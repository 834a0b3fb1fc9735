"""The texts that are under way: admits, advances, and drops them.

The first rows of the cache are those that get a token a step. Prompts are read in other rows, a
chunk a step in the order of their arrival, so that running texts go on meanwhile; a prompt that is
read joins them. A text that ends makes room at once, its row is kept for prompts like it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.generation.cache import Cache, Chunk
from worker.models.generation.places import Place, Places
from worker.models.generation.sampling import Sampling, sample
from worker.models.generator import Advance, Finish, RowsFailed

__all__ = ("Batch", "Limits", "Row")

_WORTH_COPYING = 16
"""Tokens of a common beginning below which it is computed again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch may take."""

    slots: int
    context: int
    """Tokens of one row."""
    chunk: int
    """Tokens of prompts that are read in one step."""
    exact: bool = False
    reuse: bool = True
    """Whether known beginnings are copied."""


@dataclass(eq=False, slots=True)
class Row:
    """One choice of a job."""

    handle: int
    tokens: list[int]
    """The prompt and what was said; it grows."""
    prompt: int
    """How many of them are read in chunks."""
    place: Place
    sampling: Sampling
    most: int
    """Tokens with which it ends."""
    begun: bool = False
    """Whether its place holds its own tokens, not yet those of a text before it."""

    @property
    def read(self) -> int:
        """How many of its tokens lie in the cache."""
        return len(self.place.tokens)


class Batch:
    """All rows of one model. Call it on the device's thread.

    After `step` has raised anything but RowsFailed, all rows are to be dropped.
    """

    def __init__(self, cache: Cache, limits: Limits, ends: Sequence[int], device: str) -> None:
        self._cache = cache
        self._limits = limits
        self._ends = frozenset(ends)
        self._device = device
        self._places = Places(limits.slots)
        self._rows: dict[int, Row] = {}
        self._running: list[Row] = []
        """In the order of the cache's first rows."""
        self._waiting: deque[Row] = deque()
        """Prompts that are not read to their end."""
        self.reused = 0
        """Tokens of prompts that were copied."""

    def __len__(self) -> int:
        return len(self._rows)

    def admit(self, prompt: Sequence[int], said: Sequence[int], sampling: Sampling) -> int:
        """A row for one choice; returns its handle, the smallest that is free.

        said: what goes before its next token, and is not said again.
        """
        tokens = [*prompt, *said]
        place = self._places.take(tokens, _WORTH_COPYING)
        if place is None:
            raise RuntimeError(f"all {self._limits.slots} rows are taken")
        handle = next(one for one in range(self._limits.slots) if one not in self._rows)
        # Exact: what was said is said again by force, as reading it in chunks may give other bits.
        exact = self._limits.exact
        sampling.begin(prompt, () if exact else said, self._device)
        row = Row(
            handle,
            tokens,
            prompt=len(prompt) if exact else len(tokens),
            place=place,
            sampling=sampling,
            most=min(len(prompt) + sampling.options.max_tokens, self._limits.context),
        )
        self._rows[handle] = row
        self._waiting.append(row)
        return handle

    def drop(self, handle: int) -> None:
        """Free a row; its beginning stays for prompts like it."""
        row = self._rows.pop(handle)
        if row in self._waiting:
            self._waiting.remove(row)
        self._rest(row)
        self._places.free(row.place)

    @torch.inference_mode()
    def step(self) -> list[Advance]:
        """One pass: a chunk of waiting prompts, a token to every row that has read its own."""
        chunks = self._chunks()
        if not self._running and not chunks:
            return []
        running = [(row.tokens[row.read], row.read) for row in self._running]
        logits = self._cache.advance(running, [chunk for _, chunk in chunks])
        at_end = dict(enumerate(self._running))
        for row, (token, _) in zip(self._running, running, strict=True):
            row.place.tokens.append(token)
        for row, chunk in chunks:
            self._note_read(row, chunk)
        # Only now: who begins to run may exchange its place with that of another who has read.
        for number, (row, _) in enumerate(chunks, len(running)):
            if row.read == row.prompt:
                self._run(row)
                at_end[number] = row
        speaking = {}
        for number, row in at_end.items():
            if row.read == len(row.tokens):
                speaking[number] = row
            else:
                row.sampling.take(row.tokens[row.read])
        if len(speaking) < len(logits):
            logits = logits[list(speaking)]
        return self._say(logits, list(speaking.values()))

    def _say(self, logits: Tensor, rows: Sequence[Row]) -> list[Advance]:
        """Raises RowsFailed where a row has no next token."""
        if not rows:
            return []
        advances, reasons = [], {}
        drawn = sample(logits, [row.sampling for row in rows], exact=self._limits.exact)
        for row, (token, logprob, top, error) in zip(rows, drawn, strict=True):
            if error is not None:
                reasons[row.handle] = error
                self._spoil(row)
                continue
            row.tokens.append(token)
            row.sampling.take(token)
            finish = self._finish(row, token)
            if finish is not None:
                self._rest(row)
            advances.append(Advance(row.handle, token, finish, logprob, top))
        if reasons:
            raise RowsFailed(reasons, advances)
        return advances

    def _finish(self, row: Row, token: int) -> Finish | None:
        constraint = row.sampling.constraint
        if token in self._ends or (constraint is not None and constraint.complete):
            return "stop"
        return "length" if len(row.tokens) >= row.most else None

    def _spoil(self, row: Row) -> None:
        """Its numbers are none, or its end is not known."""
        self._rest(row)
        self._cache.clear(row.place.number)
        row.place.tokens.clear()
        row.place.computed = 0

    # -- where rows lie --------------------------------------------------------

    def _run(self, row: Row) -> None:
        """Its prompt is read: it gets a token a step from now on."""
        self._waiting.remove(row)
        self._exchange(row.place.number, len(self._running))
        self._running.append(row)

    def _rest(self, row: Row) -> None:
        """It gets no more tokens, if it got any."""
        at = row.place.number
        if at >= len(self._running) or self._running[at] is not row:
            return
        last = self._running.pop()
        if last is not row:
            self._running[at] = last
            self._exchange(at, len(self._running))

    def _exchange(self, one: int, other: int) -> None:
        if one == other:
            return
        places = self._places
        columns = max(len(places[one].tokens), len(places[other].tokens))
        self._cache.swap(one, other, columns)
        places.swap(one, other)

    # -- prompts ---------------------------------------------------------------

    def _chunks(self) -> list[tuple[Row, Chunk]]:
        """What is read in this step."""
        found: list[tuple[Row, Chunk]] = []
        whole = room = self._limits.chunk
        for row in self._waiting:
            if room == 0:
                break
            if not row.begun:
                self._begin(row)
            size = min(whole, row.prompt - row.read)
            if self._limits.exact and size > room:
                break  # a part of it might have other bits
            size = min(size, room)
            tokens = row.tokens[row.read : row.read + size]
            found.append((row, Chunk(row.place.number, row.read, tokens)))
            room -= size
        return found

    def _begin(self, row: Row) -> None:
        """Copy the longest beginning that lies in some row; the last token is always read."""
        row.begun = True
        place, exact = row.place, self._limits.exact
        source, common = self._places.source(row.tokens[: row.prompt - 1], place, whole=exact)
        if exact:
            common -= common % self._limits.chunk
        if common < _WORTH_COPYING or not self._limits.reuse:
            common = 0
        elif source is not place:
            self._cache.copy(source.number, place.number, common)
            self._places.touch(source)
        place.tokens = row.tokens[:common]
        place.computed = common if exact else 0
        self.reused += common

    def _note_read(self, row: Row, chunk: Chunk) -> None:
        row.place.tokens += chunk.tokens
        if self._limits.exact and len(chunk.tokens) == self._limits.chunk:
            row.place.computed = chunk.end

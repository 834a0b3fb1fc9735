"""Turns tokens into text as they come, and finds stop strings.

Tokens are bytes: a character may be spread over several, and a stop string over the border of two.
So bytes wait until their character is whole, and what may be the beginning of a stop string waits
until it is one or cannot become one. What was given out is never taken back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from common.generation.options import GenerateOptions
from worker.models.generator import Finish, Piece

__all__ = ("ChoiceText", "StopSearch")


class _Match(NamedTuple):
    end: int
    begin: int


class StopSearch:
    """Holds back what may become a stop string."""

    def __init__(self, stops: Sequence[str], *, keep: bool) -> None:
        """keep: the stop string is part of the text."""
        self._stops = stops
        self._keep = keep
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that may be given out, and whether a stop string ends it."""
        self._held += text
        if (match := self._first()) is not None:
            said = self._held[: match.end if self._keep else match.begin]
            self._held = ""
            return said, True
        hold = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - hold
        said, self._held = self._held[:cut], self._held[cut:]
        return said, False

    def rest(self) -> str:
        """What was held back; no more comes."""
        rest, self._held = self._held, ""
        return rest

    def _first(self) -> _Match | None:
        """The one that ends first, as if the text came by single characters; of these the
        longest."""
        matches = [
            _Match(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0
        ]
        return min(matches, default=None)


def _overlap(text: str, stop: str) -> int:
    """The longest end of the text with which the stop string begins."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class ChoiceText:
    """The text of one choice."""

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        ends: frozenset[int],
        options: GenerateOptions,
        before: str = "",
    ) -> None:
        """token_bytes: by token, empty for special ones. before: what the text begins with."""
        self._bytes = token_bytes
        self._ends = ends
        self._least = options.min_tokens
        self._search = StopSearch(options.stop, keep=options.include_stop)
        self._before = before
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens = 0

    def feed(self, token: int, finish: Finish | None) -> Piece:
        """See `generator.Text`. Half a character at the end of all is left out."""
        self._tokens += 1
        ended = finish == "stop" and token in self._ends
        text = "" if ended else self._decoder.decode(self._content(token))
        before, self._before = self._before, ""
        if self._tokens <= self._least:
            # No stop string ends it yet, nor begins here to end it later.
            said, stopped = text, False
        else:
            said, stopped = self._search.feed(text)
        if stopped:
            return Piece(before + said, "stop")
        if finish is not None:
            said += self._search.rest()
        return Piece(before + said, finish)

    def flush(self) -> str:
        """What waited for more, where none comes: a stop string's beginning, but no half
        character."""
        return self._search.rest()

    def _content(self, token: int) -> bytes:
        return self._bytes[token] if token < len(self._bytes) else b""

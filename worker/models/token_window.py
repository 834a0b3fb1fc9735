"""Fills a model's window of tokens from a text of any length, a block of characters at a time.

A text that is cut by characters first gives other tokens where blanks, control characters or one
huge word stand in front. So blocks are tokenised until the window is full: the same ids as from
the whole text, for the price of a few blocks. For tokenizers of BERT's kind, which look at one
word at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ("TokenWindow", "Tokens")

BLOCK_CHARACTERS = 16_384
"""Tokenised at once: a few milliseconds, and enough to fill most windows."""
MAX_CHARACTERS = 2_000_000
"""Most characters tokenised of one text, less blank blocks: under a second of a thread."""
_LONGEST_WORD = 1_000
"""A word beyond this is unknown to every vocabulary, whatever follows in it."""
_OVERLONG = "x" * 200
"""Stands for such a word where it goes on in the next block."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's token ids with the special ones, and whether there were more than fit."""

    ids: list[int]
    truncated: bool


class TokenWindow:
    """A `tokenizers.Tokenizer` and the most tokens its model takes, special ones included."""

    def __init__(
        self, tokenizer: Any, max_tokens: int, max_characters: int = MAX_CHARACTERS
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._max_characters = max_characters
        self._begin, self._end = tokenizer.encode("").ids

    def tokens(self, text: str) -> Tokens:
        """The first tokens of the text. Raises TypeError for half a surrogate pair."""
        if len(text) <= BLOCK_CHARACTERS:
            # Unlike `encode` it releases the interpreter's lock, and is faster.
            ids: list[int] = self._tokenizer.encode_batch_fast([text])[0].ids
            if len(ids) <= self.max_tokens:
                return Tokens(ids, truncated=False)
            return Tokens([*ids[: self.max_tokens - 1], self._end], truncated=True)
        room = self.max_tokens - 2
        found, at_end = self._first_tokens(text, room + 1)
        truncated = len(found) > room or not at_end
        return Tokens([self._begin, *found[:room], self._end], truncated)

    def _first_tokens(self, text: str, enough: int) -> tuple[list[int], bool]:
        """At least this many of its tokens, where it has them, and whether its end was reached."""
        ids: list[int] = []
        rest, at, read = "", 0, 0
        while at < len(text) and len(ids) < enough and read < self._max_characters:
            end = _end_of_block(text, at)
            block, at = text[at:end], end
            if block.isspace():
                block = " "
            read += len(block)
            whole, rest = self._words(rest + block)
            ids += whole
        if len(ids) < enough and rest:
            ids += self._tokenizer.encode(rest, add_special_tokens=False).ids
        return ids, at >= len(text)

    def _words(self, block: str) -> tuple[list[int], str]:
        """The ids of all its words but the last, and that one, which may go on."""
        encoding = self._tokenizer.encode(block, add_special_tokens=False)
        words = encoding.word_ids
        if not words:
            return [], ""
        first = words.index(words[-1])
        rest = block[encoding.offsets[first][0] :]
        if len(rest) > _LONGEST_WORD:
            normal = self._tokenizer.normalizer.normalize_str(rest)
            blank = " " if normal[-1:].isspace() else ""
            rest = normal.strip()
            rest = (_OVERLONG if len(rest) > _LONGEST_WORD else rest) + blank
        return encoding.ids[:first], rest


def _end_of_block(text: str, at: int) -> int:
    """Behind a blank where there is one near, so that few words lie across two blocks."""
    end = at + BLOCK_CHARACTERS
    near = max(at, end - _LONGEST_WORD)
    blank = max(text.rfind(" ", near, end), text.rfind("\n", near, end))
    return end if blank < 0 else blank + 1

"""How much of a job's text a reader was sent, and what of an entry of its stream is new to it.

Pure. An event's id tells both: `<step's id>.<entry>.<characters of choice 0>_<of choice 1>...`.
With the number of the entry a reader goes on right behind it. With the characters it goes on in
another place that has the same text: the stream of the identical job that ran for this one, that of
this job after it took over, the result. Entry 0 means that only the characters can be relied on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from common.generation.openai_answers import choices_of
from common.generation.said import Delta

_MOST_CHOICES = 16
_PROGRESS = re.compile(r"(.*)\.(\d{1,9})\.(\d{1,9}(?:_\d{1,9}){0,15})")


@dataclass(frozen=True, slots=True)
class Piece:
    """What a choice says next."""

    choice: int
    text: str
    tokens: list[int]
    finish: str | None
    logprobs: Any
    progress: str
    """How far a reader is that has it, as ids end."""

    def encode(self, step_id: str) -> bytes:
        """The piece as a server-sent event."""
        about: dict[str, Any] = {"text": self.text, "tokens": self.tokens, "choice": self.choice}
        if self.finish is not None:
            about["finish_reason"] = self.finish
        if self.logprobs is not None:
            about["logprobs"] = self.logprobs
        event_id = (step_id + self.progress).encode()
        return b"event: token\nid: %s\ndata: %s\n\n" % (event_id, orjson.dumps(about))


class Progress:
    """Of one reader of one job."""

    def __init__(self, entry: int = 0, sent: Iterable[int] = ()) -> None:
        self.entry = entry
        """The last entry of this job's own stream that was sent whole; 0 where it is not known."""
        self._sent = [*sent, *[0] * _MOST_CHOICES][:_MOST_CHOICES]
        """By choice, characters that were sent."""
        self._used = max((at + 1 for at, one in enumerate(self._sent) if one), default=0)
        """How many choices have sent something, with those before them."""
        self._seen = list(self._sent)
        """By choice, characters of the source that is being read; fewer after it was changed."""
        self._finished: set[int] = set()
        self._own = True

    @classmethod
    def read(cls, event_id: str | None) -> tuple[str | None, Progress]:
        """The step's id in an event's id, and the progress that it tells."""
        found = _PROGRESS.fullmatch(event_id or "")
        if not found:
            return event_id, cls()
        entry, sent = int(found[2]), list(map(int, found[3].split("_")))
        progress = cls(entry, sent)
        if not entry:
            progress.restart(own=True)
        return found[1], progress

    def restart(self, *, own: bool) -> None:
        """Read from the beginning of a source, this job's own stream or another."""
        self.entry = 0
        self._own = own
        self._seen = [0] * _MOST_CHOICES

    def take(self, number: int, entry: Sequence[Delta]) -> list[Piece]:
        """What is new in the next entry of the source."""
        said = [one for one in entry if 0 <= one.choice < _MOST_CHOICES]
        pieces = []
        for at, one in enumerate(said):
            # Where an entry was sent in part, the reader begins anew and leaves out by characters.
            self.entry = number if self._own and at == len(said) - 1 else 0
            piece = self._new_in(one)
            if piece is not None:
                pieces.append(piece)
        return pieces

    def _new_in(self, one: Delta) -> Piece | None:
        choice, text, finish = one.choice, one.text, one.finish or None
        begin, sent = self._seen[choice], self._sent[choice]
        self._seen[choice] = begin + len(text)
        if finish is not None:
            self._finished.add(choice)
        if begin < sent:
            text = text[sent - begin :]
            if not text:
                return None
        self._note(choice, max(sent, self._seen[choice]))
        return Piece(choice, text, one.tokens, finish, one.logprobs or None, str(self))

    def rest_of(self, result: Any) -> Iterator[Piece]:
        """What a result has beyond what was sent: all of it where there was no stream.

        Nothing where it is not the result of a generator.
        """
        try:
            choices = list(choices_of(result))[:_MOST_CHOICES]
            whole = [
                (str(one["text"]), one["finish_reason"], one.get("logprobs")) for one in choices
            ]
        except (KeyError, TypeError, AttributeError):
            return
        untold = not any(self._sent) and not self.entry and not self._finished
        for choice, (text, finish, logprobs) in enumerate(whole):
            sent = self._sent[choice]
            rest = text[sent:]
            if rest or untold:
                self._note(choice, len(text))
                self.entry = 0
                yield Piece(choice, rest, [], finish, None if sent else logprobs, str(self))

    def _note(self, choice: int, characters: int) -> None:
        self._sent[choice] = characters
        if choice >= self._used and characters:
            self._used = choice + 1

    def __str__(self) -> str:
        """As ids end; empty where nothing was sent."""
        if self._used > 1:
            return f".{self.entry}.{'_'.join(map(str, self._sent[: self._used]))}"
        return f".{self.entry}.{self._sent[0]}" if self.entry or self._used else ""

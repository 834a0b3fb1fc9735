"""The lines of a batch's input from any byte on, a part of the file at a time."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from common.batches.files import Files


class InputLine(NamedTuple):
    """One line."""

    number: int
    """From 0, blank ones counted."""
    text: bytes
    end: int
    """The byte of the file after it."""


class InputLines:
    """Reads on whenever it is asked for the next line."""

    def __init__(self, files: Files, file_id: str, number: int = 0, offset: int = 0) -> None:
        """Begins with this line, which is at this byte."""
        self._parts = files.read(file_id, offset)
        self._ready: deque[bytes] = deque()
        self._rest = b""
        self.number, self._end = number, offset
        self._read_all = False

    async def next(self) -> InputLine | None:
        """The next line that is not blank; None after the last."""
        while True:
            while self._ready:
                text = self._ready.popleft()
                number = self.number
                self.number += 1
                self._end += len(text) + 1
                if text.strip():
                    return InputLine(number, text, self._end)
            if self._read_all:
                return None
            await self._read_part()

    async def _read_part(self) -> None:
        part = await anext(self._parts, None)
        if part is None:
            self._read_all = True
            if self._rest:
                self._ready.append(self._rest)
            return
        *lines, self._rest = (self._rest + part).split(b"\n")
        self._ready.extend(lines)

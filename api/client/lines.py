"""Splits a streamed response into its lines, whatever pieces it arrives in."""

from __future__ import annotations

__all__ = ("LineReader",)


class LineReader:
    """Takes pieces, gives lines. A line in many pieces is put together once, at its end."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece, without their line breaks."""
        if b"\n" not in piece:
            self._rest.append(piece)
            return []
        lines = piece.split(b"\n")
        lines[0] = b"".join((*self._rest, lines[0]))
        self._rest = [lines.pop()]
        return lines

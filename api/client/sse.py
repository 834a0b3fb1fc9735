"""Parses server-sent events from the bytes of a response."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from .types import Event, Token

__all__ = ("EventReader",)


class EventReader:
    """Turns chunks of bytes into events; comments, such as heartbeats, are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Event | Token]:
        """The events that this chunk completes."""
        *blocks, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            event = _event(block)
            if event is not None:
                yield event


def _event(block: bytes) -> Event | Token | None:
    fields: dict[bytes, list[bytes]] = {}
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        fields.setdefault(name, []).append(value.removeprefix(b" "))
    if b"data" not in fields:
        return None
    told = orjson.loads(b"\n".join(fields[b"data"]))
    kind = fields.get(b"event", [b"message"])[-1].decode()
    event_id = fields.get(b"id", [b""])[-1].decode()
    if kind == "token":
        known = {name: told.get(name) for name in ("finish_reason", "logprobs")}
        return Token(event_id, told["text"], told["choice"], told["tokens"], **known)
    return Event(event_id, kind, told)

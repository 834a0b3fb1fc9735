"""Parses server-sent events from the bytes of a response."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from .types import Event

__all__ = ("EventReader",)


class EventReader:
    """Turns chunks of bytes into events; comments, such as heartbeats, are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that this chunk completes."""
        *blocks, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            event = _event(block)
            if event is not None:
                yield event


def _event(block: bytes) -> Event | None:
    fields: dict[bytes, list[bytes]] = {}
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        fields.setdefault(name, []).append(value.removeprefix(b" "))
    if b"data" not in fields:
        return None
    job = orjson.loads(b"\n".join(fields[b"data"]))
    kind = fields.get(b"event", [b"message"])[-1].decode()
    return Event(fields.get(b"id", [b""])[-1].decode(), kind, job)

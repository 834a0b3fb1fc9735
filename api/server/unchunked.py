"""Answers of unknown length for HTTP/1.0, which knows no chunks: sent as they are, up to the close.

uvicorn's protocol sends chunks to every client, so that one of HTTP/1.0 reads their sizes amid its
events. It closes the connection of such a client already.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ("send_unchunked",)


def send_unchunked(cycle: RequestResponseCycle) -> None:
    """Have this cycle, which has sent nothing yet, send no chunks."""
    send, unknown = cycle.send, False

    async def sent(message: Any) -> None:
        nonlocal unknown
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            unknown = b"content-length" not in names
            if unknown:
                cycle.chunked_encoding = False
        elif unknown and message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = sent  # type: ignore[method-assign]  # of this one alone

"""HEAD, which every route that answers GET has: the same answer without its body."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.redis.ending import end_tasks

HEAD_ONLY = "lanefleet.head"
"""In the scope of a GET that is a HEAD: its reader leaves as soon as it has the head."""


async def answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the application answer a GET, up to its head; a stream would go on for minutes."""
    answered = asyncio.Event()
    inner = {**scope, "method": "GET", HEAD_ONLY: True}

    async def only_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            if "route" in inner:
                scope["route"] = inner["route"]  # for the log and the metrics
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            answered.set()

    async def answer() -> None:
        await app(inner, receive, only_head)

    answering, waiting = asyncio.create_task(answer()), asyncio.create_task(answered.wait())
    try:
        await asyncio.wait({answering, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
    finally:
        await end_tasks(waiting)
        await end_tasks(answering)

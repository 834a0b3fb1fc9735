"""Work for a client that may leave: whoever has hung up waits for nothing.

Only for routes whose answer is the sole way to what they do. The request's body must have been
read: then the next message is that the client left, or nothing until the answer is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from common.redis.ending import end_tasks

T = TypeVar("T")


class ClientLeft(ClientDisconnect):
    """Nobody is there any more to answer to."""


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; when the client leaves first, the work is cancelled: raises ClientLeft."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_departure(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    finally:
        await end_tasks(leaving)
        await end_tasks(working)


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

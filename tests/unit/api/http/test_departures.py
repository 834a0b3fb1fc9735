"""Who waits for an answer, and who has left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Request

from api.http.departures import ClientLeft, unless_client_leaves


def request(left: asyncio.Event) -> Request:
    """One whose body was read, of a client that leaves with this event."""

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


def test_work_is_done_while_somebody_waits_for_it() -> None:
    async def run() -> int:
        return await unless_client_leaves(request(asyncio.Event()), asyncio.sleep(0, 7))

    assert asyncio.run(run()) == 7


def test_an_error_of_the_work_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("on purpose")

    async def run() -> None:
        await unless_client_leaves(request(asyncio.Event()), fail())

    with pytest.raises(ValueError, match="on purpose"):
        asyncio.run(run())


def test_work_for_nobody_ends_even_if_a_cancel_is_lost() -> None:
    cancels = 0

    async def run() -> None:
        left, begun = asyncio.Event(), asyncio.Event()

        async def stubborn() -> None:
            nonlocal cancels
            while cancels < 2:
                try:
                    begun.set()
                    await asyncio.Event().wait()
                except asyncio.CancelledError:  # as wait_for before Python 3.12
                    cancels += 1

        async def leave() -> None:
            await begun.wait()
            left.set()

        leaving = asyncio.create_task(leave())
        try:
            await unless_client_leaves(request(left), stubborn())
        finally:
            await leaving

    with pytest.raises(ClientLeft):
        asyncio.run(asyncio.wait_for(run(), 20))
    assert cancels == 2

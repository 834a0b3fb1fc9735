"""Ask Redis from the event loop for what many want to know, many to a round trip.

A thousand clients that poll, or that look again after a lost connection, ask
within a few turns of the loop. Each on its own would take a connection and a
round trip, and redis-py's pool refuses whoever comes when all of its 100
connections are out; together they take a few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

_TRIPS = 4
"""Round trips under way at a time; what is asked for meanwhile shares the next."""


class SharedTrips(Generic[T]):
    """Answers by key; those asked for in one turn, or while all trips are out, share the next.

    `ask` gets keys, each once, and returns an answer for each: its value, or the exception
    that whoever asked for it is to get.
    """

    def __init__(
        self, ask: Callable[[Sequence[str]], Awaitable[Sequence[T | Exception]]], most: int
    ) -> None:
        self._ask = ask
        self._most = most
        self._wanted: dict[str, asyncio.Future[T]] = {}
        self._called = False
        self._trips: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> T:
        """The answer for this key; raises what asking raised."""
        future = self._wanted.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            if not self._called and len(self._trips) < _TRIPS:
                self._called = True
                loop.call_soon(self._depart)
            future = self._wanted[key] = loop.create_future()
            future.add_done_callback(_seen)
        return await asyncio.shield(future)  # one caller that leaves must not take the others along

    def _depart(self) -> None:
        self._called = False
        while self._wanted and len(self._trips) < _TRIPS:
            aboard = list(islice(self._wanted.items(), self._most))
            for key, _ in aboard:
                del self._wanted[key]
            trip = asyncio.create_task(self._travel(aboard))
            self._trips.add(trip)
            trip.add_done_callback(self._arrived)

    def _arrived(self, trip: asyncio.Task[None]) -> None:
        self._trips.discard(trip)
        if self._wanted and not self._called:
            self._depart()

    async def _travel(self, wanted: Sequence[tuple[str, asyncio.Future[T]]]) -> None:
        try:
            answers = await self._ask([key for key, _ in wanted])
        except BaseException as exc:  # noqa: BLE001 - every caller must hear of it
            for _, future in wanted:
                future.set_exception(exc)
            return
        for (_, future), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _seen(future: asyncio.Future[T]) -> None:
    """An error that nobody waits for any more is no news."""
    if not future.cancelled():
        future.exception()

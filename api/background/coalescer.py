"""Combines requests that arrive together into one round trip.

A thousand clients may send requests within a few turns of the event loop. Separately each
would take a connection and a round trip, and redis-py's pool raises when all of its 100
connections are in use; together they take a few. Items that arrive in one turn of the loop, or
while the maximum number of calls is in progress, are sent in the next call: the busier the
loop, the more items share the cost of a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741 - an item
O = TypeVar("O")  # noqa: E741 - its answer


class Coalescer(Generic[I, O]):
    """Sends items in batches; each caller gets the answer to its own item.

    `send` gets the items of one call and returns an answer for each: its value, or the exception
    to raise to its caller. An exception that `send` raises is raised to all of them.
    """

    def __init__(
        self,
        send: Callable[[Sequence[I]], Awaitable[Sequence[O | Exception]]],
        *,
        max_items: int,
        max_in_progress: int,
        max_bytes: int = 0,
        size_bytes: Callable[[I], int] = lambda _item: 0,
        on_failure: Callable[[Exception], None] = lambda _exc: None,
    ) -> None:
        """max_items and max_bytes bound a call (0: any size), max_in_progress their number;
        on_failure is called with what `send` raised, after the callers have got it.
        """
        self._send = send
        self._max_items = max_items
        self._max_in_progress = max_in_progress
        self._max_bytes = max_bytes
        self._size_bytes = size_bytes
        self._on_failure = on_failure
        self._waiting: list[tuple[I, asyncio.Future[O]]] = []
        self._shared: dict[I, asyncio.Future[O]] = {}
        """By item, the futures that several callers may await."""
        self._scheduled = False
        self._calls: dict[asyncio.Task[None], list[tuple[I, asyncio.Future[O]]]] = {}

    def submit(self, item: I) -> asyncio.Future[O]:
        """Send the item with the next call; await the future for its answer."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[O] = loop.create_future()
        self._waiting.append((item, future))
        if not self._scheduled and len(self._calls) < self._max_in_progress:
            self._scheduled = True
            loop.call_soon(self._start_calls)
        return future

    async def share(self, item: I) -> O:
        """The answer; callers that submit an equal item before it is sent share one answer."""
        future = self._shared.get(item)
        if future is None:
            future = self._shared[item] = self.submit(item)
            future.add_done_callback(_retrieve)
        return await asyncio.shield(future)  # a canceled caller must not cancel the others

    def fail_waiting(self, error: Callable[[], Exception]) -> None:
        """Fail the items that were not sent, each with an error of its own."""
        waiting, self._waiting = self._waiting, []
        self._shared.clear()
        _fail(waiting, error)

    def fail_in_progress(self, error: Callable[[], Exception]) -> None:
        """Fail the items that were sent and not yet answered."""
        _fail(list(chain(*self._calls.values())), error)

    def _start_calls(self) -> None:
        """Send the waiting items, within the limits; the end of a call sends more."""
        self._scheduled = False
        while self._waiting and len(self._calls) < self._max_in_progress:
            count = self._next_count()
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            if self._shared:
                for item, _ in batch:
                    self._shared.pop(item, None)
            call = asyncio.get_running_loop().create_task(self._call(batch))
            self._calls[call] = batch
            call.add_done_callback(self._ended)

    def _next_count(self) -> int:
        """Number of items in the next call: at least one, whatever its size."""
        if not self._max_bytes:
            return self._max_items
        total = 0
        for count, (item, _) in enumerate(self._waiting[: self._max_items]):
            total += self._size_bytes(item)
            if count and total > self._max_bytes:
                return count
        return self._max_items

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.pop(call, None)
        if self._waiting and not self._scheduled:
            self._start_calls()

    async def _call(self, batch: list[tuple[I, asyncio.Future[O]]]) -> None:
        try:
            answers = await self._send([item for item, _ in batch])
        except BaseException as exc:
            error = exc
            _fail(batch, lambda: error)
            if not isinstance(exc, Exception):
                raise
            self._on_failure(exc)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _fail(batch: Sequence[tuple[I, asyncio.Future[O]]], error: Callable[[], BaseException]) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error())


def _retrieve(future: asyncio.Future[O]) -> None:
    """Retrieve the exception, so that asyncio logs none for an abandoned future."""
    if not future.cancelled():
        future.exception()

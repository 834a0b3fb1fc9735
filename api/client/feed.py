"""Inputs of an asynchronous generator, for the bookkeeping of `map`, which takes an iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Any

from .plan import NOT_YET
from .types import Job

__all__ = ("Feed",)


class Feed(Iterator[Any]):
    """Yields what has come, then NOT_YET, until the generator ends."""

    def __init__(self, inputs: AsyncIterable[Any], ahead: int) -> None:
        """ahead is the most inputs that are read and not taken yet."""
        self._inputs = inputs
        self._ahead = ahead
        self._come: deque[Any] = deque()
        self._ended = False
        self._taken = asyncio.Event()

    def __next__(self) -> Any:
        if self._come:
            self._taken.set()
            return self._come.popleft()
        if self._ended:
            raise StopIteration
        return NOT_YET

    async def run(self, arrived: asyncio.Queue[list[Job] | BaseException]) -> None:
        """Read to the end. Each input, the end and an error are announced there."""
        try:
            try:
                async for value in self._inputs:
                    self._come.append(value)
                    if len(self._come) == 1:
                        arrived.put_nowait([])
                    await self._room()
            finally:
                if isinstance(self._inputs, AsyncGenerator):
                    await self._inputs.aclose()
            self._ended = True
            arrived.put_nowait([])
        except Exception as exc:  # noqa: BLE001 - raised again in the caller's task
            arrived.put_nowait(exc)

    async def _room(self) -> None:
        while len(self._come) >= self._ahead:
            self._taken.clear()
            await self._taken.wait()

"""A tenant's requests that keep Redis busy take turns, so that others' commands get between them.

A page of jobs may take ten calls of a script of some milliseconds each. With 400 such requests at
once, a job of another tenant took 158 ms in place of 6, and with 1,500 it took 900.
"""

from __future__ import annotations

from asyncio import Semaphore
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from api.http.request_context import waiting_by_choice

_AT_ONCE = 2


class Turns:
    """The turns of each tenant in this process."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()
        """Those of tenants without a request under way are gone."""

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn; raises TooManyWaiting where the tenant has its share of requests that
        wait.
        """
        turn = self._turns.get(tenant)
        if turn is None:
            turn = self._turns[tenant] = Semaphore(_AT_ONCE)
        if turn.locked():
            with waiting_by_choice(tenant):
                await turn.acquire()
        else:
            await turn.acquire()
        try:
            yield
        finally:
            turn.release()

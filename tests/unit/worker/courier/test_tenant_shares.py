"""Places are parted among tenants, so that one whose receivers hang leaves the others theirs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from worker.courier.tenant_shares import ShareFullError, TenantShares


def test_a_tenant_alone_leaves_a_quarter_for_who_comes_next() -> None:
    async def run() -> None:
        shares = TenantShares(8, 0.01)
        async with AsyncExitStack() as held:
            for _ in range(6):
                await held.enter_async_context(shares.place("acme"))
            with pytest.raises(ShareFullError):
                await held.enter_async_context(shares.place("acme"))
            await held.enter_async_context(shares.place("other"))
            assert shares.share == 3
            with pytest.raises(ShareFullError):
                await held.enter_async_context(shares.place("acme"))
            for _ in range(2):
                await held.enter_async_context(shares.place("other"))
        async with shares.place("acme"):
            assert shares.share == 6, "those that hold none take no part"

    asyncio.run(run())


def test_who_waits_gets_the_place_that_is_left() -> None:
    async def run() -> None:
        shares, order = TenantShares(1, 5.0), []

        async def hold(name: str) -> None:
            async with shares.place("acme"):
                order.append(name)
                await asyncio.sleep(0)

        async with asyncio.timeout(4):
            await asyncio.gather(*(hold(name) for name in "abc"))
        assert order == ["a", "b", "c"]
        assert not shares._waiting
        assert not shares._held

    asyncio.run(run())


def test_who_is_canceled_while_it_waits_leaves_nothing() -> None:
    async def run() -> None:
        shares = TenantShares(1, 5.0)

        async def hold() -> None:
            async with shares.place("acme"):
                pass

        async with shares.place("acme"):
            waiting = asyncio.create_task(hold())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert not shares._waiting
        async with shares.place("acme"):
            pass

    asyncio.run(run())


def test_how_fast_a_tenants_end_is_known_after_a_second_and_follows() -> None:
    now = [0.0]
    shares = TenantShares(1_000, 1.0, clock=lambda: now[0])

    async def end(count: int) -> None:
        for _ in range(count):
            async with shares.place("fast"):
                pass

    async def run() -> None:
        async with shares.place("hanging"):
            assert shares.rate("fast") is None
            await end(100)
            now[0] = 1.0
            assert shares.rate("fast") == 100
            assert shares.rate("hanging") == 0, "it holds a place, and nothing of it has ended"
            await end(50)
            now[0] = 2.0
            rate = shares.rate("fast")
            assert rate is not None
            assert 50 < rate < 100
        for second in range(3, 60):
            now[0] = float(second)
            shares.rate("fast")
        assert shares._rates == {}, "who sends nothing is forgotten"

    asyncio.run(run())

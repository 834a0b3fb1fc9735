"""One stream's watch: it ends a wait at a change or in time, with one timer for all its waits."""

from __future__ import annotations

import asyncio

from api.jobs.watch import Watch

AN_HOUR = 3_600.0


def test_a_change_ends_a_wait_and_one_before_it_is_not_lost() -> None:
    async def waits() -> list[bool]:
        watch = Watch()
        watch.wake()
        watch.wake()
        found = [await watch.change(AN_HOUR)]
        waiting = asyncio.create_task(watch.change(AN_HOUR))
        await asyncio.sleep(0)
        watch.wake()
        found.append(await waiting)
        found.append(await watch.change(0.0))
        watch.close()
        return found

    assert asyncio.run(waits()) == [True, True, False]


def test_a_later_wait_ends_in_its_own_time() -> None:
    async def waits() -> tuple[bool, float]:
        loop, watch = asyncio.get_running_loop(), Watch()
        loop.call_later(0.02, watch.wake)
        assert await watch.change(0.04)
        began = loop.time()
        changed = await watch.change(0.04)  # the timer of the first wait rings amid this one
        return changed, loop.time() - began

    changed, seconds = asyncio.run(waits())
    assert not changed
    assert seconds >= 0.039


def test_a_shorter_wait_is_not_ended_by_the_timer_of_a_longer() -> None:
    async def waits() -> bool:
        watch = Watch()
        asyncio.get_running_loop().call_later(0.01, watch.wake)
        assert await watch.change(AN_HOUR)
        return await watch.change(0.01)

    assert asyncio.run(waits()) is False


def test_a_thousand_waits_have_one_timer() -> None:
    async def timers() -> int:
        loop, watch, made = asyncio.get_running_loop(), Watch(), 0
        plain = loop.call_at

        def counted(*args: object, **more: object) -> asyncio.TimerHandle:
            nonlocal made
            made += 1
            return plain(*args, **more)  # type: ignore[arg-type]

        loop.call_at = counted  # type: ignore[method-assign, assignment]
        for _ in range(1_000):
            waiting = asyncio.create_task(watch.change(AN_HOUR))
            await asyncio.sleep(0)
            watch.wake()
            assert await waiting
        watch.close()
        return made

    assert asyncio.run(timers()) == 1

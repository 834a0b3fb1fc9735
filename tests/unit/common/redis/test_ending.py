"""Tasks end although a cancellation was swallowed."""

from __future__ import annotations

import asyncio

import pytest

from common.redis.ending import end_tasks, heed_cancellation


async def deaf(times: int) -> None:
    """Goes on after so many cancellations."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if times == 0:
                raise
            times -= 1


async def broken() -> None:
    raise ValueError("of no use to whoever ends it")


def test_all_are_over_whatever_they_swallow_or_raise() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(one) for one in (deaf(0), deaf(2), broken())]
        await asyncio.sleep(0)
        await end_tasks(None, *tasks)
        assert all(task.done() for task in tasks)
        await end_tasks()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_task_can_ask_whether_it_missed_its_cancellation() -> None:
    async def main() -> None:
        heed_cancellation()
        task = asyncio.create_task(deaf_once())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def deaf_once() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heed_cancellation()

    asyncio.run(main())

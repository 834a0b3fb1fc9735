"""Ends tasks that talk to Redis by asyncio.

One cancel is not enough before Python 3.12: a `wait_for` whose answer arrives in the same turn
swallows the cancellation, and redis-py uses it for every command.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ("end_tasks", "heed_cancellation")

_AGAIN_SECONDS = 0.1


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel them until they are over; what they raise is dropped."""
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=_AGAIN_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()  # heard of; whoever ends a task has no use for it


def heed_cancellation() -> None:
    """Raise CancelledError where this task was canceled before and has not heard of it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError

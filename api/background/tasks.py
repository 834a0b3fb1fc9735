"""Ends a background task reliably."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ("end",)

_AGAIN_SECONDS = 0.1


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel it until it is over.

    One cancel is not enough before Python 3.12: a `wait_for` whose answer arrives in the same
    turn swallows the cancellation, and redis-py uses it for every command.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN_SECONDS)
    if task is not None and not task.cancelled():
        task.exception()  # heard of; whoever ends a task has no use for it

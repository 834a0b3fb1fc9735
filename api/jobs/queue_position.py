"""Finds the position of a waiting job, and estimates when it starts.

The position is looked up in the lane on request, so it has no cost otherwise; requests within
one turn of the event loop share a script call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import redis.asyncio

from api.background.coalescer import Coalescer
from api.jobs.views import QueuePosition
from common.jobs.record import JobRecord, JobState
from common.redis.scripts import AsyncScripts

_IDS_PER_CALL = 20
"""Finding a job deep in a long lane takes Redis up to a millisecond."""
_MAX_IN_PROGRESS = 4


class QueuePositions:
    """Looks up the positions of waiting jobs in their lanes."""

    def __init__(
        self, client: redis.asyncio.Redis, per_second: Callable[[str], float | None]
    ) -> None:
        self._scripts = AsyncScripts(client)
        self._per_second = per_second
        self._ahead: Coalescer[str, int] = Coalescer(
            self._ask, max_items=_IDS_PER_CALL, max_in_progress=_MAX_IN_PROGRESS
        )

    async def of(self, record: JobRecord) -> QueuePosition | None:
        """The position of a queued job; None for others, and where it is unknown."""
        if record.state is not JobState.QUEUED:
            return None
        ahead = await self._ahead.share(record.id)
        if ahead < 0:
            return None
        rate = self._per_second(record.lane)
        return QueuePosition(ahead, int((time.time() + ahead / rate) * 1000) if rate else None)

    async def _ask(self, ids: Sequence[str]) -> Sequence[int | Exception]:
        found: Sequence[int] = await self._scripts.run("queue_position", (), ids)
        return found

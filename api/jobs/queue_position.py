"""Where a waiting job stands, and when it should start.

The place is looked up in the lane itself, so it costs nobody anything until
somebody asks; those who ask within one turn of the loop share a script call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import redis.asyncio

from api.jobs.views import Place
from common.jobs.record import JobRecord, JobState
from common.redis.coalesce import SharedTrips
from common.redis.scripts import AsyncScripts

_IDS_PER_CALL = 20
"""A job deep in a long lane takes Redis up to a millisecond to find."""


class Places:
    """Finds waiting jobs in their lanes."""

    def __init__(
        self, client: redis.asyncio.Redis, per_second: Callable[[str], float | None]
    ) -> None:
        self._scripts = AsyncScripts(client)
        self._per_second = per_second
        self._ahead = SharedTrips(self._ask, _IDS_PER_CALL)

    async def of(self, record: JobRecord) -> Place | None:
        """The place of a queued job; None for others, and where it is not known."""
        if record.state is not JobState.QUEUED:
            return None
        ahead = await self._ahead.get(record.id)
        if ahead < 0:
            return None
        rate = self._per_second(record.lane)
        return Place(ahead, int((time.time() + ahead / rate) * 1000) if rate else None)

    async def _ask(self, ids: Sequence[str]) -> Sequence[int | Exception]:
        found: Sequence[int] = await self._scripts.run("queue_position", (), ids)
        return found

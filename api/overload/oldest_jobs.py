"""How long the oldest of the jobs that are served next has waited, per lane.

One look at the first few messages of each band: a band is nearly in the order of arrival. What
a tenant has beside a band came after what it has in it, so it is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import redis.asyncio

from common.redis.scripts import AsyncScripts

_LOOKS = 8
_LANES_PER_CALL = 50


class OldestJobs:
    """Remembers since when a job has been first in its lane, where nobody knows when it came."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._scripts = AsyncScripts(client)
        self._unknown: dict[str, tuple[bytes, int]] = {}
        """Per lane, such a job, and when it was first seen, server's Unix milliseconds."""

    async def ages(self, lanes: Sequence[str]) -> dict[str, float]:
        """Seconds by lane, of lanes where jobs wait; may raise RedisError."""
        ages: dict[str, float] = {}
        before, self._unknown = self._unknown, {}
        while lanes:
            call: list[str | bytes | int | float] = [_LOOKS, *lanes[:_LANES_PER_CALL]]
            now, *words = await self._scripts.run("oldest_jobs", (), call)
            for lane, came_ms, head in zip(lanes, words[::2], words[1::2], strict=False):
                since = came_ms or now
                if head:
                    known = before.get(lane, (b"", now))
                    self._unknown[lane] = seen = known if known[0] == head else (head, now)
                    since = min(since, seen[1])
                ages[lane] = max(0, now - since) / 1000
            lanes = lanes[len(words) // 2 :]
        return ages

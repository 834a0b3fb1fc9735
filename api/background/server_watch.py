"""Whether the queue's Redis may throw jobs away: looked at now and then, told where people look.

Its operator can change that while we run, and a failover can bring a server that was set up
otherwise. It refuses nobody: most who find it out have not lost anything yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError, ResponseError

from common.metrics.declaration import MetricFamily
from common.metrics.server import REDIS_MAX, REDIS_MAY_EVICT, REDIS_USED
from common.redis.ending import end_tasks
from common.redis.refusals import tell_refusal
from common.redis.server_facts import policy_warning

log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 30.0
_TIMEOUT_SECONDS = 1.0


class ServerWatch:
    """Asks INFO for the policy; the first time at the start."""

    def __init__(self, client: redis.asyncio.Redis, seconds: float = _INTERVAL_SECONDS) -> None:
        self._client = client
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self.warnings: list[str] = []
        """What its operator should see to; a sentence each."""
        self._memory: Mapping[str, Any] = {}

    async def start(self) -> None:
        """Look, for no longer than a second, and go on in the background."""
        await self._look()
        self._task = asyncio.create_task(self._run(), name="server-watch")

    async def stop(self) -> None:
        """End."""
        await end_tasks(self._task)

    async def ask(self) -> dict[str, object]:
        """What INFO says of the server and its memory now; nothing where it may not be asked."""
        try:
            found: dict[str, object] = await self._client.info("server")
            return found | await self._client.info("memory")
        except ResponseError as exc:
            tell_refusal("INFO", "its version and memory cannot be told", exc)
            return {}

    def families(self) -> Iterator[MetricFamily]:
        """The server's memory as metrics; without samples where INFO is refused."""
        used, most, may_evict = (one.family() for one in (REDIS_USED, REDIS_MAX, REDIS_MAY_EVICT))
        if self._memory:
            used.add(float(self._memory.get("used_memory", 0)))
            most.add(float(self._memory.get("maxmemory", 0)))
            may_evict.add(float(bool(self.warnings)))
        yield from (used, most, may_evict)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self._look()

    async def _look(self) -> None:
        with contextlib.suppress(RedisError, TimeoutError, OSError):  # others tell of these
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                self._take(await self._ask())

    async def _ask(self) -> dict[str, object]:
        try:
            found: dict[str, object] = await self._client.info("memory")
        except ResponseError as exc:
            tell_refusal("INFO", "whether it may throw jobs away cannot be told", exc)
            return {}
        return found

    def _take(self, info: dict[str, object]) -> None:
        self._memory = info
        warning = policy_warning(info)
        found = [warning] if warning else []
        if found != self.warnings:
            for text in found:
                log.warning("redis_may_lose_jobs", text=text)
            if not found:
                log.info("redis_keeps_jobs")
        self.warnings = found

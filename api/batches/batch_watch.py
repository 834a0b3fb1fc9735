"""What unfinished batches wait for, read from Redis now and then: for metrics.

The API looks, and not the courier, so that batches are seen to stand still where no courier runs.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from common.batches.records import BatchStatus
from common.metrics.batches import (
    BATCH_LINES_WAITING,
    BATCH_STILL,
    BATCH_TROUBLED,
    BATCHES_UNFINISHED,
)
from common.metrics.declaration import MetricFamily
from common.redis.ending import end_tasks
from common.redis.keys import BATCH_PREFIX, BATCHES
from common.redis.trouble import TROUBLE

log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 5.0
_BATCHES_PER_SECOND = 200
"""Of many batches a look takes longer, and so is taken less often."""
_IDS_PER_CALL = 200
_OTHER = "other"
_FIELDS = (
    *("status", "tenant", "total", "completed", "failed", "ahead_completed", "ahead_failed"),
    *("fed", "trouble"),
)
_STATUSES = tuple(one for one in BatchStatus if not one.ended)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A batch as it was met, and since when it is so."""

    state: tuple[bytes | None, ...]
    since: float


class BatchWatch:
    """Looks for as long as the process lives."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        max_tenants: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_tenants: with series of their own."""
        self._client: Any = client
        self._max_tenants = max_tenants
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._seen: dict[bytes, _Seen] = {}
        self._readable = False

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="batch-watch")

    async def stop(self) -> None:
        """End."""
        await end_tasks(self._task)

    async def look(self) -> None:
        """Look once. May raise RedisError."""
        self._readable = False
        ids: list[bytes] = await self._client.zrange(BATCHES, 0, -1)
        found: dict[bytes, _Seen] = {}
        for first in range(0, len(ids), _IDS_PER_CALL):
            part = ids[first : first + _IDS_PER_CALL]
            pipe = self._client.pipeline(transaction=False)
            for one in part:
                pipe.hmget(BATCH_PREFIX + one.decode(), _FIELDS)
            for one, values in zip(part, await pipe.execute(), strict=True):
                if values[0] is not None:
                    found[one] = self._seen_as(one, tuple(values))
        self._seen, self._readable = found, True

    def _seen_as(self, batch: bytes, state: tuple[bytes | None, ...]) -> _Seen:
        before = self._seen.get(batch)
        return before if before and before.state == state else _Seen(state, self._clock())

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except RedisError as exc:
                TROUBLE.note("looking at batches", exc)
            except Exception:
                log.exception("batches_not_looked_at")
            pause = max(_INTERVAL_SECONDS, len(self._seen) / _BATCHES_PER_SECOND)
            await asyncio.sleep(pause)

    def families(self) -> Iterator[MetricFamily]:
        """Its metrics, for one scrape; none where Redis could not be read: an old figure would
        look like a true one.
        """
        statuses, waiting = BATCHES_UNFINISHED.family(), BATCH_LINES_WAITING.family()
        if not self._readable:
            yield from (statuses, waiting, BATCH_TROUBLED.family(), BATCH_STILL.family())
            return
        now, by_status, by_tenant = self._clock(), Counter[str](), Counter[str]()
        troubled, longest = 0, 0.0
        for seen in self._seen.values():
            status, tenant, *counts, _fed, trouble = (one or b"" for one in seen.state)
            by_status[status.decode()] += 1
            total, *ended = (int(one or 0) for one in counts)
            by_tenant[tenant.decode()] += max(0, total - sum(ended))
            troubled += bool(trouble)
            longest = max(longest, now - seen.since)
        for one in _STATUSES:
            statuses.add(by_status[one], one)
        for name, lines in _bounded(by_tenant, self._max_tenants).items():
            waiting.add(lines, name)
        yield from (statuses, waiting, BATCH_TROUBLED.of(troubled), BATCH_STILL.of(longest))


def _bounded(by_tenant: Counter[str], most: int) -> dict[str, int]:
    """The tenants with most lines by name, the rest together."""
    found: dict[str, int] = {}
    for number, (tenant, lines) in enumerate(by_tenant.most_common()):
        name = tenant if number < most else _OTHER
        found[name] = found.get(name, 0) + lines
    return found

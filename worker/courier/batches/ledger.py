"""A batch's record, changed only by who holds it.

The lease of the batch's job parts the work between couriers; a courier that stood still may wake
after it. So each run takes a token of its own, and every change is refused to an older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import urandom
from typing import Any

import redis.asyncio

from common.batches.records import BatchRecord, BatchStatus, read_record
from common.jobs.system_lanes import BATCHES as LANE
from common.redis.ending import heed_cancellation
from common.redis.keys import BATCH_OPEN_PREFIX, BATCH_PREFIX, BATCHES, LaneKeys
from common.redis.scripts import AsyncScripts
from common.redis.server_time import as_ms, server_ms

UNFINISHED = tuple(one for one in BatchStatus if not one.ended)


class NotHeld(Exception):
    """Another run of the batch holds it, or it is no more."""


class Ledger:
    """The record of one batch. Every method may raise RedisError."""

    def __init__(self, client: redis.asyncio.Redis, record: BatchRecord) -> None:
        self._client: Any = client
        self._scripts = AsyncScripts(client)
        self._owner = urandom(8).hex()
        self._key = BATCH_PREFIX + record.id
        self._keys = (self._key, BATCHES, BATCH_OPEN_PREFIX + record.tenant)
        self._record = record
        self.now_ms = 0
        """Redis' time when the status was last asked for."""

    async def claim(self) -> None:
        """Take the batch from whoever held it; raises NotHeld where it has ended."""
        if not await self._try(UNFINISHED, {"owner": self._owner}, owner=""):
            raise NotHeld

    async def status(self) -> BatchStatus:
        """Where it stands; raises NotHeld."""
        heed_cancellation()
        pipe = self._client.pipeline(transaction=False)
        pipe.time().hmget(self._key, "status", "owner")
        now, (status, owner) = await pipe.execute()
        self.now_ms = as_ms(now)
        if status is None or owner is None or owner.decode() != self._owner:
            raise NotHeld
        return BatchStatus(status.decode())

    async def ask_time(self) -> int:
        """Unix milliseconds by Redis' clock, as the deadlines of jobs."""
        self.now_ms = await server_ms(self._client)
        return self.now_ms

    async def others_wait(self) -> bool:
        """Whether there are batches that no courier runs."""
        pipe = self._client.pipeline(transaction=False)
        for band in LaneKeys.of(LANE).bands:
            pipe.llen(band)
        return any(await pipe.execute())

    async def read(self) -> BatchRecord:
        """The record as it stands; raises NotHeld."""
        record = read_record(BatchRecord, await self._client.hgetall(self._key))
        if record is None:
            raise NotHeld
        return record

    async def move(
        self,
        states: Iterable[BatchStatus],
        fields: dict[str, Any],
        *,
        line: int | None = None,
        parts: Sequence[tuple[str, str]] = (),
        event: bytes = b"",
    ) -> bool:
        """Change fields, and append parts (key, word) to its files; False where it is in none of
        these states. event is the body of what webhooks tell of its end. Raises NotHeld.
        """
        if await self._try(states, fields, owner=self._owner, line=line, parts=parts, event=event):
            return True
        if await self.status() in tuple(states):
            raise NotHeld  # it is at another line
        return False

    async def _try(
        self,
        states: Iterable[BatchStatus],
        fields: dict[str, Any],
        *,
        owner: str,
        line: int | None = None,
        parts: Sequence[tuple[str, str]] = (),
        event: bytes = b"",
    ) -> bool:
        allowed = f" {' '.join(states)} "
        at = "" if line is None else line
        args: list[str | int | bytes] = [self._record.id, owner, allowed, at, len(parts)]
        args += (self._record.file_seconds, self._record.tenant, event)
        for part in parts:
            args += part
        for name, value in fields.items():
            args += (name, str(value))
        return bool(await self._scripts.run("move_batch", self._keys, args))

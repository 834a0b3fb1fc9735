"""Deletes inputs that are stored outside Redis and that no job needs any more.

Every transition that settles a job deletes its blob key, which holds the mark of such an
input, so an input without the mark is an orphan. It must have a minimum age, because an
input is written before its mark. One worker of the fleet sweeps at a time, elected by a
Redis key; the others skip the round.
"""

from __future__ import annotations

import asyncio
import random
from typing import cast

import structlog
from redis import Redis

from common.errors import InputStoreUnavailable
from common.inputs.blobs import Blobs
from common.redis.keys import BLOB_SWEEP, blob_key
from worker.maintenance.caretaker import Caretaker

log = structlog.get_logger(__name__)


class InputSweeper(Caretaker):
    """Sweeps the input store periodically."""

    def __init__(
        self, client: Redis, blobs: Blobs, worker: str, sweep_seconds: float, orphan_seconds: float
    ) -> None:
        """orphan_seconds is the age from which an input without a mark is deleted."""
        super().__init__("sweeper")
        self._client = client
        self._blobs = blobs
        self._worker = worker
        self._sweep_seconds = sweep_seconds
        self._orphan_seconds = orphan_seconds

    def interval(self) -> float:
        """The configured interval, jittered so that workers do not contend for the key at once."""
        return self._sweep_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load

    def run_once(self) -> None:
        """Sweep the store, unless another worker does; may raise RedisError."""
        holds = max(1, int(self._sweep_seconds * 0.7))
        if not self._client.set(BLOB_SWEEP, self._worker, nx=True, ex=holds):
            return
        try:
            removed = asyncio.run(self._sweep())
        except InputStoreUnavailable:
            return  # logged where it was raised
        if removed:
            log.info("inputs_swept", inputs=removed)

    async def _sweep(self) -> int:
        removed = 0
        async for page in self._blobs.older_than(self._orphan_seconds):
            if not page or self._stopping.is_set():
                continue
            marks = cast("list[bytes | None]", self._client.mget(map(blob_key, page)))
            orphans = [one for one, mark in zip(page, marks, strict=True) if mark is None]
            await self._blobs.delete(orphans)
            removed += len(orphans)
        return removed

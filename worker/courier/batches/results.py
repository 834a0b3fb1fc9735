"""What came of the lines under way: read from Redis in the order of the input, kept bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import redis.asyncio

from common.batches.lines import Request
from common.jobs.job import Job
from common.jobs.record import JobRecord
from common.redis.keys import meta_key

_LOOKED_AT = (16, 256)
"""Jobs asked for at a time: few while nothing is there, as many batches ask, more while all are."""
_MOST_BYTES = 4 * 1024 * 1024
"""Of results that wait for one before them."""


class Results:
    """The lines under way, first to last, with the results that are there."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client: Any = client
        self._lines: deque[Request] = deque()
        self._found: dict[str, tuple[JobRecord, int]] = {}
        self._found_bytes = 0
        self._average = 1024.0
        self._asked = _LOOKED_AT[0]
        self.jobs = 0
        """Jobs of these lines."""
        self.sent_bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, request: Request) -> None:
        """Append a line."""
        self._lines.append(request)
        self.jobs += len(request.jobs)
        self.sent_bytes += sum(job.sent_bytes for job in request.jobs)

    def pop(self) -> tuple[Request, list[JobRecord]] | None:
        """The first line with its results, where all are there."""
        if not self._lines or any(job.id not in self._found for job in self._lines[0].jobs):
            return None
        return self._pop()

    def pop_anyway(self) -> tuple[Request, list[JobRecord]]:
        """The first line with the results that are there."""
        return self._pop()

    def unanswered(self) -> list[Job]:
        """The jobs without a result."""
        return [job for line in self._lines for job in line.jobs if job.id not in self._found]

    async def look(self) -> bool:
        """Read results of the first lines; returns whether there were any. May raise RedisError."""
        ids = self._wanted()
        found = await self.read(ids) if ids else 0
        if found == len(ids):
            self._asked = min(self._asked * 2, _LOOKED_AT[1])
        elif not found:
            self._asked = max(self._asked // 2, _LOOKED_AT[0])
        return found > 0

    async def read(self, ids: Sequence[str]) -> int:
        """Read the results of these jobs; returns how many there were."""
        found = 0
        for job_id, meta in zip(ids, await self._client.mget(map(meta_key, ids)), strict=True):
            record = JobRecord.read(job_id, None, meta) if meta else None
            if record is None or not record.state.terminal:
                continue
            found += 1
            self._found[job_id] = record, len(meta)
            self._found_bytes += len(meta)
            self._average += (len(meta) - self._average) / 64
        return found

    def _wanted(self) -> list[str]:
        room = int((_MOST_BYTES - self._found_bytes) / max(self._average, 1.0))
        most = max(1, min(self._asked, room))
        ids: list[str] = []
        for line in self._lines:
            ids += [job.id for job in line.jobs if job.id not in self._found]
            if len(ids) >= most:
                break
        return ids[:most]

    def _pop(self) -> tuple[Request, list[JobRecord]]:
        line = self._lines.popleft()
        records = []
        for job in line.jobs:
            if job.id in self._found:
                record, size = self._found.pop(job.id)
                self._found_bytes -= size
                records.append(record)
        self.jobs -= len(line.jobs)
        self.sent_bytes -= sum(job.sent_bytes for job in line.jobs)
        return line, records

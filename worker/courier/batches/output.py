"""The files of a batch's results, which grow by a part whenever the batch notes how far it is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from common.batches.files import Files, parts_key
from common.batches.records import BatchRecord, BatchStatus, FileRecord
from common.errors import InputStoreUnavailable
from common.redis.keys import meta_key
from worker.courier.batches.counts import BatchCounts
from worker.courier.batches.ledger import Ledger

log = structlog.get_logger(__name__)

_PART_BYTES = 1024 * 1024
_SECONDS = (2.0, 60.0)
"""Between two parts: at first, and when a batch has run for long, so that it has few of them."""
_STORE_PAUSE_SECONDS = 2.0
_RATE_SAMPLES = 30
RUNNING = (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING)


@dataclass(slots=True)
class _Side:
    """Of the lines that succeeded, or of those that did not."""

    count: int
    bytes: int
    """In the file."""
    lines: bytearray = field(default_factory=bytearray)
    """Not in the file yet."""


@dataclass(slots=True)
class _Times:
    """On the steady clock: when the run began, last wrote, and last told its counts."""

    begun: float
    written: float
    shown: float


class Output:
    """Lines that were not noted yet, and the counts."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        ledger: Ledger,
        files: Files,
        record: BatchRecord,
        counts: BatchCounts,
    ) -> None:
        self._client: Any = client
        self._ledger = ledger
        self._files = files
        self._record = record
        self._sides = {
            True: _Side(record.completed, record.output_bytes),
            False: _Side(record.failed, record.error_bytes),
        }
        self._at = (record.line, record.offset)
        self._noted = record.line
        self._counts = counts
        self._counted = (record.completed, record.failed)
        self._times = _Times(*[time.monotonic()] * 3)
        self._ended: list[str] = []
        self._samples: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES)

    @property
    def waiting_jobs(self) -> int:
        """Jobs whose results are kept until they are in the files."""
        return len(self._ended)

    def add(self, succeeded: bool, line: bytes, job_ids: Sequence[str]) -> None:
        """Append one line of a result; `pass_by` says what it stands for."""
        self._sides[succeeded].lines += line
        self._sides[succeeded].count += 1
        self._ended += job_ids

    def pass_by(self, number: int, end: int) -> None:
        """Note that the results of the input's lines up to this one are here, or will never be."""
        self._at = (number + 1, end)

    def is_due(self, window_jobs: int) -> bool:
        """Whether it is time to write."""
        size = max(len(side.lines) for side in self._sides.values())
        if not self._ended and not size:
            return False
        now = time.monotonic()
        pause = min(max((now - self._times.begun) / 50, _SECONDS[0]), _SECONDS[1])
        full = size >= _PART_BYTES or len(self._ended) >= window_jobs
        return full or now - self._times.written >= pause

    async def write(self) -> None:
        """Write the lines, and how far the batch is, in one step. Raises NotHeld or RedisError.

        Waits for as long as the store takes nothing.
        """
        if self._at[0] == self._noted:
            return
        out, err = self._sides[True], self._sides[False]
        sizes = out.bytes + len(out.lines), err.bytes + len(err.lines)
        parts = [part for kind in (True, False) for part in await self._parts(kind)]
        fields = {
            **{"line": self._at[0], "offset": self._at[1], "trouble": ""},
            **{"completed": out.count, "failed": err.count},
            **{"output_bytes": sizes[0], "error_bytes": sizes[1]},
            **{"ahead_completed": 0, "ahead_failed": 0},
        }
        if not await self._ledger.move(RUNNING, fields, line=self._noted, parts=parts):
            log.error("batch_ended_beside_its_run", batch=self._record.id)
            return
        self._noted = self._at[0]
        for side, size in zip((out, err), sizes, strict=True):
            side.bytes, side.lines = size, bytearray()
        self._times.written = time.monotonic()
        before, self._counted = self._counted, (out.count, err.count)
        self._counts.lines(self._record.tenant, out.count - before[0], err.count - before[1])
        await self._drop_results()

    async def show(self) -> None:
        """Tell the counts and the rate, once a second."""
        now = time.monotonic()
        if now - self._times.shown < 1.0:
            return
        self._times.shown = now
        self._samples.append((now, sum(side.count for side in self._sides.values())))
        (first, before), (_, done) = self._samples[0], self._samples[-1]
        record = await self._ledger.read()
        completed, failed = (self._sides[kind].count for kind in (True, False))
        ahead = completed - record.completed, failed - record.failed
        if sum(ahead) < record.ahead_completed + record.ahead_failed:
            return  # after a restart: what was shown before is not there again yet
        fields: dict[str, Any] = {"ahead_completed": ahead[0], "ahead_failed": ahead[1]}
        if now > first:
            fields["rate"] = (done - before) / (now - first)
        await self._ledger.move(RUNNING, fields)

    async def _parts(self, kind: bool) -> list[tuple[str, str]]:
        content = bytes(self._sides[kind].lines)
        if not content:
            return []
        file_id = self._record.output_file if kind else self._record.error_file
        while True:
            try:
                return [(parts_key(file_id), await self._files.store_part(file_id, content))]
            except InputStoreUnavailable as exc:
                log.warning("batch_output_not_stored", batch=self._record.id, error=str(exc))
                await self._ledger.move(RUNNING, {"trouble": str(exc)})
            await asyncio.sleep(_STORE_PAUSE_SECONDS)

    async def _drop_results(self) -> None:
        """Results that are in the files are not kept in Redis as well."""
        ended, self._ended = self._ended, []
        try:
            for first in range(0, len(ended), 500):
                await self._client.delete(*map(meta_key, ended[first : first + 500]))
        except RedisError as exc:  # they expire
            log.warning("batch_results_kept", batch=self._record.id, error=str(exc))


async def publish(ledger: Ledger, files: Files) -> dict[str, int]:
    """Make the files visible that have lines; returns the fields that say which."""
    record, made_ms = await ledger.read(), await ledger.ask_time()
    found = {}
    for name, file_id, purpose, size in (
        ("has_output", record.output_file, "output", record.output_bytes),
        ("has_errors", record.error_file, "error", record.error_bytes),
    ):
        found[name] = int(size > 0)
        if size:
            expires_ms = made_ms + record.file_seconds * 1000
            filename = f"{record.id}_{purpose}.jsonl"
            file = FileRecord(
                *(file_id, record.tenant, "batch_output", filename, size, made_ms, expires_ms)
            )
            await files.add(file)
    return found

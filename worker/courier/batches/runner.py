"""The runner of the lane `~batch`: one job of it is one batch, from its validation to its end."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any

import orjson
import redis.asyncio
import structlog
from redis.exceptions import RedisError

from common.batches.files import Files
from common.batches.lines import LineLimits, LineReader
from common.batches.publishing import batch_job
from common.batches.records import BatchRecord, BatchStatus, read_record
from common.catalog import Catalog
from common.errors import InputStoreUnavailable
from common.jobs.enqueue import enqueue_args
from common.jobs.job import new_job_id
from common.redis.ending import end_tasks
from common.redis.keys import BATCH_PREFIX, BATCHES, job_key, meta_key
from common.redis.scripts import AsyncScripts
from common.settings import Settings
from common.webhooks.events import BATCH_COMPLETED, body_of
from worker.courier.batches.ledger import Ledger, NotHeld, now_ms
from worker.courier.batches.output import Output
from worker.courier.batches.validation import validate
from worker.courier.batches.work import BatchWork
from worker.courier.jobs import CourierJob, Done, Later, Outcome, Runner

log = structlog.get_logger(__name__)

_STORE_DELAY_MS = 5_000
_LOOK_SECONDS = 5.0
"""How often batches are looked for that have no job."""


class BatchRunner(Runner):
    """Runs batches, and looks after those whose job was lost and after expired files."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        files: Files,
        catalog: Catalog,
        settings: Settings,
    ) -> None:
        self.concurrency = settings.batch_concurrency
        self._client: Any = client
        self._scripts = AsyncScripts(client)
        self._files = files
        self._catalog = catalog
        self._settings = settings
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to look after batches and files."""
        sweep = self._settings.blob_sweep_seconds
        self._tasks = [
            asyncio.create_task(self._forever(self.revive, _LOOK_SECONDS)),
            asyncio.create_task(self._forever(self.sweep, sweep)),
        ]

    async def stop(self) -> None:
        """End that."""
        await end_tasks(*self._tasks)

    async def run(self, job: CourierJob) -> Outcome:
        """Run one batch to its end, or to where it cannot go on now."""
        stored = await self._client.hgetall(BATCH_PREFIX + str(job.input))
        record = read_record(BatchRecord, stored)
        if record is None or record.status.ended:
            return Done()
        ledger = Ledger(self._client, record)
        try:
            await ledger.claim()
            await self._run(ledger)
        except NotHeld:
            log.info("batch_left", batch=record.id)
        except InputStoreUnavailable as exc:
            log.warning("batch_waits_for_the_store", batch=record.id, error=str(exc))
            with suppress(NotHeld):
                await ledger.move(list(BatchStatus), {"trouble": str(exc)})
            return Later(_STORE_DELAY_MS)
        return Done()

    async def _run(self, ledger: Ledger) -> None:
        record = await ledger.read()
        if record.status is BatchStatus.VALIDATING:
            await validate(ledger, record, self._files, self._settings)
            record = await ledger.read()
            log.info("batch_validated", batch=record.id, status=record.status, lines=record.total)
        output = Output(self._client, ledger, self._files, record)
        if record.status in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING):
            work = self._work(ledger, record)
            await self._end(ledger, output, await work.run())
        elif record.status is BatchStatus.FINALIZING:
            await self._end(ledger, output, BatchStatus.COMPLETED)

    def _work(self, ledger: Ledger, record: BatchRecord) -> BatchWork:
        settings = self._settings
        limits = LineLimits(
            settings.inline_input_bytes,
            settings.max_params_bytes,
            settings.max_message_bytes,
            settings.max_inputs,
            settings.chat_max_tokens,
        )
        reader = LineReader(
            record.id, record.tenant, record.endpoint, record.expires_ms, self._catalog, limits
        )
        return BatchWork(self._client, ledger, self._files, reader, record, settings)

    async def _end(self, ledger: Ledger, output: Output, status: BatchStatus) -> None:
        before = [BatchStatus.CANCELLING if status is BatchStatus.CANCELLED else _RUNS]
        if status is BatchStatus.COMPLETED:
            moved = {"status": BatchStatus.FINALIZING, "finalizing_ms": now_ms()}
            await ledger.move(before, moved)  # a batch that is canceled now is done all the same
            before = [BatchStatus.FINALIZING, BatchStatus.CANCELLING]
            if await ledger.status() is BatchStatus.CANCELLING:
                status = BatchStatus.CANCELLED
        files = await output.publish()
        ended_ms = now_ms()
        fields = {"status": status, f"{status}_ms": ended_ms, **files}
        record = await ledger.read()
        event = _event(record, files, ended_ms) if status is BatchStatus.COMPLETED else b""
        await ledger.move(before, fields, event=event)
        log.info("batch_ended", batch=record.id, status=status)

    async def revive(self) -> None:
        """Enqueue a job for each unfinished batch that has none: its creator was killed in between,
        or Redis lost it. May raise RedisError.
        """
        for one in await self._client.zrange(BATCHES, 0, -1):
            batch_id = one.decode()
            stored = await self._client.hgetall(BATCH_PREFIX + batch_id)
            record = read_record(BatchRecord, stored)
            if record is None:
                await self._client.zrem(BATCHES, batch_id)
                continue
            live, settled = await self._client.mget(job_key(record.job), meta_key(record.job))
            if live is not None:
                continue
            job_id = new_job_id() if settled is not None else record.job
            if settled is not None:
                await self._client.hset(BATCH_PREFIX + batch_id, "job", job_id)
            job = batch_job(batch_id, record.tenant, job_id)
            await self._scripts.run("enqueue", (), enqueue_args([job], self._settings.max_backlog))

    async def sweep(self) -> None:
        """Remove expired files, and parts that no file lists."""
        name = f"{os.getpid()}@{socket.gethostname()}"
        settings = self._settings
        with suppress(InputStoreUnavailable):  # logged where it was raised
            await self._files.sweep(name, settings.blob_sweep_seconds, settings.blob_orphan_seconds)

    async def _forever(self, step: Any, seconds: float) -> None:
        while True:
            try:
                await step()
            except (RedisError, OSError) as exc:
                log.warning("batches_not_looked_after", error=str(exc))
            await asyncio.sleep(seconds)


_RUNS = BatchStatus.IN_PROGRESS


def _event(record: BatchRecord, files: dict[str, int], ended_ms: int) -> bytes:
    """What webhooks tell of a batch that is completed."""
    data = {
        "id": record.id,
        "status": BatchStatus.COMPLETED,
        "endpoint": record.endpoint,
        "input_file_id": record.input_file,
        "output_file_id": record.output_file if files["has_output"] else None,
        "error_file_id": record.error_file if files["has_errors"] else None,
        "request_counts": {
            "total": record.total,
            "completed": record.completed,
            "failed": record.failed,
        },
        "metadata": orjson.loads(record.metadata) if record.metadata else None,
    }
    return body_of(BATCH_COMPLETED, ended_ms, data)

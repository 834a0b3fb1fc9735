"""The runner of the lane `~batch`: one job of it is one batch, from its validation to its end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from common.batches.files import FileGone, Files
from common.batches.lines import LineError, LineLimits, LineReader, errors_json
from common.batches.publishing import batch_job
from common.batches.records import BatchRecord, BatchStatus, read_record
from common.catalog import Catalog
from common.errors import InputStoreUnavailable
from common.jobs.enqueue import enqueue_args
from common.jobs.job import new_job_id
from common.metrics.declaration import MetricFamily
from common.redis.ending import end_tasks
from common.redis.keys import BATCH_PREFIX, BATCHES, job_key, meta_key
from common.redis.packed import run_packed
from common.redis.scripts import AsyncScripts
from common.redis.trouble import TROUBLE
from common.settings import Settings
from worker.courier.batches.counts import BatchCounts
from worker.courier.batches.end_event import end_event
from worker.courier.batches.ledger import Ledger, NotHeld
from worker.courier.batches.output import publish
from worker.courier.batches.pace import Pace
from worker.courier.batches.validation import validate
from worker.courier.batches.work import BatchWork
from worker.courier.jobs import CourierJob, Done, Later, Outcome, Runner

log = structlog.get_logger(__name__)

_STORE_DELAY_MS = 5_000
_TURN_DELAY_MS = 100
_LOOKED_AT = 200
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
        self._counts = BatchCounts(settings.metrics_max_tenants)
        self._pace = Pace()
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
            return await self._run(ledger)
        except NotHeld:
            log.info("batch_left", batch=record.id)
            return Done()
        except FileGone as exc:
            return await self._fail(ledger, exc)
        except InputStoreUnavailable as exc:
            return await self._wait_for_store(ledger, exc)

    async def _run(self, ledger: Ledger) -> Outcome:
        record = await ledger.read()
        if record.status is BatchStatus.VALIDATING:
            await validate(ledger, record, self._files, self._settings)
            record = await ledger.read()
            log.info("batch_validated", batch=record.id, status=record.status, lines=record.total)
            if record.status.ended:
                self._counts.ended(record.status)
        if record.status in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING):
            status = await self._work(ledger, record).run()
            if status is None:
                return Later(_TURN_DELAY_MS)
            await self._end(ledger, status)
        elif record.status is BatchStatus.FINALIZING:
            await self._end(ledger, BatchStatus.COMPLETED)
        return Done()

    async def _wait_for_store(self, ledger: Ledger, error: InputStoreUnavailable) -> Outcome:
        """Have the batch run later, or end it where it waited until its window was over."""
        with suppress(NotHeld):
            record = await ledger.read()
            log.warning("batch_waits_for_the_store", batch=record.id, error=str(error))
            await ledger.move(list(BatchStatus), {"trouble": str(error)})
            late = await ledger.ask_time() >= record.expires_ms
            if record.status is BatchStatus.VALIDATING and late:
                await self._end(ledger, BatchStatus.EXPIRED)
                return Done()
        return Later(_STORE_DELAY_MS)

    async def _fail(self, ledger: Ledger, error: FileGone) -> Outcome:
        """End a batch whose input was deleted or expired meanwhile, with what was done."""
        with suppress(NotHeld):
            text = f"the input is not kept any more: {error}"
            found = LineError(
                "input_file_gone", (await ledger.read()).line + 1, text, "input_file_id"
            )
            await self._end(ledger, BatchStatus.FAILED, errors=errors_json([found]))
        return Done()

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
        counts, pace = self._counts, self._pace
        return BatchWork(self._client, ledger, self._files, reader, record, settings, counts, pace)

    async def _end(self, ledger: Ledger, status: BatchStatus, **more: str) -> None:
        before = [BatchStatus.CANCELLING]
        if status is not BatchStatus.CANCELLED:
            before = [BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS]
        if status is BatchStatus.COMPLETED:
            moved = {"status": BatchStatus.FINALIZING, "finalizing_ms": await ledger.ask_time()}
            await ledger.move(before, moved)  # a batch that is canceled now is done all the same
            before = [BatchStatus.FINALIZING, BatchStatus.CANCELLING]
            if await ledger.status() is BatchStatus.CANCELLING:
                status = BatchStatus.CANCELLED
        files = await publish(ledger, self._files)
        ended_ms = await ledger.ask_time()
        fields = {"status": status, f"{status}_ms": ended_ms, **files, **more}
        record = await ledger.read()
        event = end_event(record, status, ended_ms, files)
        if await ledger.move(before, fields, event=event):
            self._counts.ended(status)
            log.info("batch_ended", batch=record.id, status=status)
        elif await ledger.status() is BatchStatus.CANCELLING:  # asked for in this moment
            await self._end(ledger, BatchStatus.CANCELLED)

    async def revive(self) -> None:
        """Enqueue a job for each unfinished batch that has none: its creator was killed in between,
        or Redis lost it. May raise RedisError.
        """
        ids = [one.decode() for one in await self._client.zrange(BATCHES, 0, -1)]
        for first in range(0, len(ids), _LOOKED_AT):
            await self._revive(ids[first : first + _LOOKED_AT])

    async def _revive(self, ids: Sequence[str]) -> None:
        known = await run_packed(
            self._client, [("HMGET", BATCH_PREFIX + one, "job", "tenant") for one in ids]
        )
        found = [
            (one, job.decode(), tenant.decode())
            for one, (job, tenant) in zip(ids, known, strict=True)
            if job
        ]
        gone = [one for one, (job, _) in zip(ids, known, strict=True) if not job]
        if gone:
            await self._client.zrem(BATCHES, *gone)
        keys = [("MGET", job_key(job), meta_key(job)) for _, job, _ in found]
        for (batch_id, job_id, tenant), (live, settled) in zip(
            found, await run_packed(self._client, keys), strict=True
        ):
            if live is not None:
                continue
            if settled is not None:
                job_id = new_job_id()
                await self._client.hset(BATCH_PREFIX + batch_id, "job", job_id)
            job = batch_job(batch_id, tenant, job_id)
            await self._scripts.run("enqueue", (), enqueue_args([job], self._settings.max_backlog))

    async def sweep(self) -> None:
        """Remove expired files, and parts that no file lists."""
        name = f"{os.getpid()}@{socket.gethostname()}"
        settings = self._settings
        with suppress(InputStoreUnavailable):  # logged where it was raised
            await self._files.sweep(name, settings.blob_sweep_seconds, settings.blob_orphan_seconds)

    def families(self) -> Iterable[MetricFamily]:
        """Its metrics, for one scrape."""
        return self._counts.families()

    async def _forever(self, step: Any, seconds: float) -> None:
        while True:
            try:
                await step()
            except (RedisError, OSError) as exc:
                TROUBLE.note("looking after batches", exc)
            await asyncio.sleep(seconds)

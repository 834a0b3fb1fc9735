"""Creates, finds and cancels batches; the courier runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import redis.asyncio

from api.batches.shapes import BatchRequest, metadata_problem
from api.http.request_errors import InvalidRequest
from api.jobs.publisher import Publisher
from api.tenants.auth import Principal
from common.batches.files import Files
from common.batches.publishing import batch_job, open_files
from common.batches.records import (
    BATCH_ID,
    BatchRecord,
    BatchStatus,
    FileRecord,
    new_batch_id,
    new_file_id,
    read_record,
    window_seconds,
    words_of,
)
from common.errors import QuotaExceeded
from common.jobs.job import new_job_id
from common.redis.keys import (
    BATCH_LIST_PREFIX,
    BATCH_OPEN_PREFIX,
    BATCH_PREFIX,
    BATCHES,
)
from common.redis.scripts import AsyncScripts
from common.redis.server_time import server_ms
from common.settings import Settings

_CANCELABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
_OUTLIVES_SECONDS = 3_600
"""How long a file must be kept after its batch's window: it is read once more then."""


class Batches:
    """The batches of all tenants. Every method may raise RedisError."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        files: Files,
        publisher: Publisher,
        settings: Settings,
    ) -> None:
        self._client: Any = client
        self._scripts = AsyncScripts(client)
        self.files = files
        self._publisher = publisher
        self._settings = settings

    async def create(self, asked: BatchRequest, principal: Principal) -> BatchRecord:
        """Note a batch, and enqueue the job that runs it.

        Raises InvalidRequest with what to send instead, or QuotaExceeded. Where the queue takes
        nothing now, the courier enqueues it later.
        """
        seconds = self._window(asked.completion_window)
        if problem := metadata_problem(asked.metadata):
            raise InvalidRequest(f"`metadata`: {problem}", param="metadata")
        created_ms = await server_ms(self._client)
        expires_ms = created_ms + seconds * 1000
        await self._check_input(asked.input_file_id, principal.tenant, expires_ms)
        kept = asked.output_expires_after
        record = BatchRecord(
            id=new_batch_id(),
            tenant=principal.tenant,
            endpoint=asked.endpoint,
            input_file=asked.input_file_id,
            window=asked.completion_window,
            metadata=orjson.dumps(asked.metadata).decode() if asked.metadata is not None else "",
            status=BatchStatus.VALIDATING,
            created_ms=created_ms,
            expires_ms=expires_ms,
            output_file=new_file_id(),
            error_file=new_file_id(),
            window_jobs=self._window_jobs(principal),
            file_seconds=kept.seconds if kept else self._settings.file_ttl_seconds,
            job=new_job_id(),
        )
        await self._add(record)
        await self._publisher.publish(batch_job(record.id, record.tenant, record.job))
        return record

    async def get(self, batch_id: str, tenant: str) -> BatchRecord | None:
        """The tenant's batch of this id."""
        if not BATCH_ID.fullmatch(batch_id):
            return None
        record = read_record(BatchRecord, await self._client.hgetall(BATCH_PREFIX + batch_id))
        return record if record is not None and record.tenant == tenant else None

    async def list_ids(self, tenant: str) -> list[str]:
        """The ids of the tenant's batches, newest first."""
        listed = await self._client.zrevrange(BATCH_LIST_PREFIX + tenant, 0, -1)
        return [one.decode() for one in listed]

    async def get_many(self, ids: Sequence[str]) -> list[BatchRecord]:
        """Those of the batches that are still known."""
        pipe = self._client.pipeline(transaction=False)
        for one in ids:
            pipe.hgetall(BATCH_PREFIX + one)
        found = [read_record(BatchRecord, one) for one in await pipe.execute()]
        return [one for one in found if one is not None]

    async def cancel(self, record: BatchRecord) -> bool:
        """Ask for its end; False where it ended, or is about to, by itself."""
        fields = {"status": BatchStatus.CANCELLING, "cancelling_ms": await server_ms(self._client)}
        words = [word for name, value in fields.items() for word in (name, str(value))]
        args: list[str | int] = [record.id, "", f" {' '.join(_CANCELABLE)} ", "", 0]
        args += [record.file_seconds, record.tenant, "", *words]
        return bool(await self._scripts.run("move_batch", self._keys(record)[:3], args))

    async def uses(self, file: FileRecord) -> str | None:
        """The unfinished batch that reads this file, or None."""
        open_ids = await self._client.zrange(BATCH_OPEN_PREFIX + file.tenant, 0, -1)
        for record in await self.get_many([one.decode() for one in open_ids]):
            if record.input_file == file.id:
                return record.id
        return None

    async def _add(self, record: BatchRecord) -> None:
        most = self._settings.tenant_batches
        forget_ms = record.created_ms - self._settings.file_ttl_seconds * 1000
        args: list[str | int] = [record.id, record.created_ms, most, forget_ms]
        if not await self._scripts.run("add_batch", self._keys(record), [*args, *words_of(record)]):
            raise QuotaExceeded(
                f"this tenant has {most} unfinished batches, as many as it may; wait until one is "
                "done, or cancel one"
            )

    def _keys(self, record: BatchRecord) -> tuple[str, ...]:
        own = BATCH_OPEN_PREFIX + record.tenant
        return BATCH_PREFIX + record.id, BATCHES, own, BATCH_LIST_PREFIX + record.tenant

    def _window(self, text: str) -> int:
        seconds = window_seconds(text)
        most = self._settings.batch_max_seconds
        if seconds is None or seconds > most:
            detail = f"`completion_window`: send one such as 30m, 24h or 2d, at most {most} seconds"
            raise InvalidRequest(detail, param="completion_window")
        return seconds

    def _window_jobs(self, principal: Principal) -> int:
        """Its jobs under way: with a limit for the tenant, half of that goes to all its batches."""
        most, limit = self._settings.batch_window_jobs, principal.limits.max_in_flight
        if not limit:
            return most
        return max(1, min(most, limit // 2 // min(self._settings.tenant_batches, 4)))

    async def _check_input(self, file_id: str, tenant: str, expires_ms: int) -> None:
        file = await self.files.get(file_id, tenant)
        name = "input_file_id"
        if file is None:
            detail = f"`{name}`: there is no file {file_id[:80]!r}; upload it to /v1/files first"
            raise InvalidRequest(detail, param=name)
        if file.purpose != "batch":
            detail = f"`{name}`: the file's purpose is {file.purpose!r}; upload it for `batch`"
            raise InvalidRequest(detail, param=name)
        if file.expires_ms < expires_ms + _OUTLIVES_SECONDS * 1000:
            detail = (
                f"`{name}`: the file expires before the completion window ends, or within an hour "
                "after; upload it anew with a later `expires_after`, or ask for a shorter window"
            )
            raise InvalidRequest(detail, param=name)


def open_batches(
    client: redis.asyncio.Redis, publisher: Publisher, settings: Settings
) -> Batches | None:
    """The batches and their files, or None where nothing says where files lie.

    Raises ConfigurationError.
    """
    blobs = open_files(settings)
    return None if blobs is None else Batches(client, Files(client, blobs), publisher, settings)

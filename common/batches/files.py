"""Files in the blob store: written and read in parts, so that none is ever whole in memory.

A part is an object of its own, which a store makes visible at once or not at all; the order of
the parts is a list in Redis. So a file can grow by a part in the same step in which a batch notes
how far it is, and a process that is killed in between leaves an object that nothing lists. Such
objects, and files that are past their time, are removed by `sweep`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from os import urandom
from typing import Any, cast

import redis.asyncio
import structlog

from common.batches.records import FILE_ID, FileRecord, read_record, words_of
from common.errors import FleetError, InputStoreUnavailable
from common.inputs.blobs import Blobs
from common.redis.keys import (
    FILE_BYTES_PREFIX,
    FILE_EXPIRY,
    FILE_LIST_PREFIX,
    FILE_PARTS_PREFIX,
    FILE_PREFIX,
    FILE_SWEEP,
)
from common.redis.scripts import AsyncScripts
from common.redis.server_time import as_ms, server_ms

log = structlog.get_logger(__name__)

PART_BYTES = 4 * 1024 * 1024
_UNFINISHED_SECONDS = 3_600
"""How long the parts of a file are kept that is not made visible."""
_SWEPT_AT_A_TIME = 100


class FileStoreFull(FleetError):
    """The tenant keeps as many files, or bytes of them, as it may."""

    code = "file_quota_exceeded"


class FileGone(InputStoreUnavailable):
    """A file that is kept no more."""


class Files:
    """The files of all tenants. Every method may raise RedisError or InputStoreUnavailable."""

    def __init__(self, client: redis.asyncio.Redis, blobs: Blobs) -> None:
        self._client: Any = client
        self._scripts = AsyncScripts(client)
        self._blobs = blobs

    async def store_part(self, file_id: str, content: bytes) -> str:
        """Store a part that nothing lists yet; returns the word that lists it."""
        name = f"{file_id}-{urandom(6).hex()}"
        try:
            await self._blobs.put(name, content)
        except InputStoreUnavailable as exc:
            raise InputStoreUnavailable(
                "the file cannot be written: where LANEFLEET_FILES_URL or LANEFLEET_BLOB_URL leads "
                "is full or cannot be reached; make room there, then try again"
            ) from exc
        return f"{name} {len(content)}"

    async def append(self, file_id: str, content: bytes) -> None:
        """Append a part to a file that is not visible yet."""
        part = await self.store_part(file_id, content)
        pipe = self._client.pipeline(transaction=True)
        pipe.rpush(parts_key(file_id), part)
        pipe.expire(parts_key(file_id), _UNFINISHED_SECONDS)
        await pipe.execute()

    async def add(self, record: FileRecord, max_files: int = 0, max_bytes: int = 0) -> None:
        """Make a file visible whose parts are stored; 0 is no limit. Raises FileStoreFull."""
        tenant = record.tenant
        keys = (
            *(FILE_PREFIX + record.id, parts_key(record.id)),
            *(FILE_LIST_PREFIX + tenant, FILE_BYTES_PREFIX + tenant, FILE_EXPIRY),
        )
        args: list[str | int] = [
            *(record.id, record.created_ms, record.expires_ms, record.bytes),
            *(max_files, max_bytes),
            *words_of(record),
        ]
        reply = int(await self._scripts.run("add_file", keys, args))
        if reply == -1:
            raise _too_many(max_files)
        if reply == -2:
            raise _too_much(record.bytes, max_bytes)
        if reply == 0:
            raise InputStoreUnavailable("the upload took too long, and is dropped; send it again")

    async def get(self, file_id: str, tenant: str | None) -> FileRecord | None:
        """The file, where it is the tenant's and has not expired; a tenant of None is any."""
        if not FILE_ID.fullmatch(file_id):
            return None
        found = await self._read([file_id])
        return found[0] if found and tenant in (None, found[0].tenant) else None

    async def now_ms(self) -> int:
        """By which clock files expire."""
        return await server_ms(self._client)

    async def require_room(self, tenant: str, size: int, max_files: int, max_bytes: int) -> None:
        """Raise FileStoreFull where the tenant could not add a file of this size: before it is
        stored, as `add` says so when it lies in the store already.
        """
        kept = [int(one) for one in await self._client.hvals(FILE_BYTES_PREFIX + tenant)]
        if len(kept) >= max_files:
            raise _too_many(max_files)
        if sum(kept) + size > max_bytes:
            raise _too_much(size, max_bytes)

    async def list_ids(self, tenant: str, oldest_first: bool = False) -> list[str]:
        """The ids of the tenant's files, newest first."""
        key = FILE_LIST_PREFIX + tenant
        listed = await self._client.zrange(key, 0, -1)
        ids = [one.decode() for one in listed]
        return ids if oldest_first else ids[::-1]

    async def get_many(self, ids: Sequence[str], tenant: str) -> list[FileRecord]:
        """Those of the files that exist."""
        return [one for one in await self._read(ids) if one.tenant == tenant]

    async def _read(self, ids: Sequence[str]) -> list[FileRecord]:
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        for one in ids:
            pipe.hgetall(FILE_PREFIX + one)
        now, *stored = await pipe.execute()
        records = [read_record(FileRecord, one) for one in stored]
        return [one for one in records if one is not None and one.expires_ms > as_ms(now)]

    async def parts(self, file_id: str) -> list[tuple[str, int]]:
        """Its parts in order: name in the store, bytes."""
        listed = cast("list[bytes]", await self._client.lrange(parts_key(file_id), 0, -1))
        words = [one.decode().split(" ") for one in listed]
        return [(name, int(size)) for name, size in words]

    async def read(self, file_id: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The content from this byte on, in parts; raises FileGone where there are none, and
        InputStoreUnavailable where one is not in the store.
        """
        parts = await self.parts(file_id)
        if not parts:
            raise FileGone(f"{file_id} was deleted, or expired")
        for name, size in parts:
            if offset >= size:
                offset -= size
                continue
            content = await self._blobs.get(name)
            if content is None:
                raise InputStoreUnavailable(f"a part of {file_id} is not in the store any more")
            yield content[offset:] if offset else content
            offset = 0

    async def delete(self, record: FileRecord) -> None:
        """Remove a file: its parts last, so that none that is listed lacks them."""
        key = parts_key(record.id)
        names = [name for name, _ in await self.parts(record.id)]
        pipe = self._client.pipeline(transaction=True)
        pipe.delete(FILE_PREFIX + record.id, key)
        pipe.zrem(FILE_LIST_PREFIX + record.tenant, record.id)
        pipe.hdel(FILE_BYTES_PREFIX + record.tenant, record.id)
        pipe.zrem(FILE_EXPIRY, record.id)
        await pipe.execute()
        await self._blobs.delete(names)

    async def forget(self, file_id: str) -> None:
        """Remove the parts of a file that was never made visible."""
        names = [name for name, _ in await self.parts(file_id)]
        await self._client.delete(parts_key(file_id))
        await self._blobs.delete(names)

    async def sweep(self, name: str, every_seconds: float, orphan_seconds: float) -> int:
        """Remove expired files and parts that no file lists; one process at a time does so."""
        holds = max(1, int(every_seconds * 0.7))
        if not await self._client.set(FILE_SWEEP, name, nx=True, ex=holds):
            return 0
        removed = 0
        while expired := await self._sweep_expired():
            removed += expired
        removed += await self._sweep_parts(orphan_seconds)
        if removed:
            log.info("files_swept", removed=removed)
        return removed

    async def _sweep_expired(self) -> int:
        """Remove some files that are past their time; returns how many."""
        now_ms = await self.now_ms()
        expired = await self._client.zrangebyscore(
            FILE_EXPIRY, "-inf", now_ms, start=0, num=_SWEPT_AT_A_TIME
        )
        for one in expired:
            file_id = one.decode()
            record = read_record(FileRecord, await self._client.hgetall(FILE_PREFIX + file_id))
            if record is not None:
                await self.delete(record)
            else:
                await self._client.zrem(FILE_EXPIRY, file_id)
        return len(expired)

    async def _sweep_parts(self, orphan_seconds: float) -> int:
        removed = 0
        async for page in self._blobs.older_than(orphan_seconds):
            owners = {name.rpartition("-")[0] for name in page}
            listed = {
                name
                for one in owners
                if FILE_ID.fullmatch(one)
                for name, _ in await self.parts(one)
            }
            orphans = [one for one in page if one not in listed]
            if orphans:
                await self._blobs.delete(orphans)
            removed += len(orphans)
        return removed


def _too_many(most: int) -> FileStoreFull:
    return FileStoreFull(f"this tenant keeps {most} files, as many as it may; delete some")


def _too_much(size: int, most: int) -> FileStoreFull:
    return FileStoreFull(
        f"with this file of {size} bytes this tenant would keep more than {most}; delete some files"
    )


def parts_key(file_id: str) -> str:
    """The list of a file's parts."""
    return FILE_PARTS_PREFIX + file_id

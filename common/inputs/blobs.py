"""Stores large inputs outside Redis: in a folder that all processes share, or in S3.

The object is written first, then one script enqueues the job together with a mark under the
job's blob key; so no job is without its input. The mark is the reference to the object: every
transition that settles a job deletes its blob key, as it does for an input in Redis, and an
object without a mark is an orphan. The worker that finishes a job deletes its object at once;
orphans (of a canceled or expired job, or of a submit that failed half-way) are deleted by
worker/maintenance/sweeper.py.

An object is named by its job's id alone, and only where that has the form of the ids that the
API generates: any Celery client may choose ids.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import structlog

from common.errors import ConfigurationError, InputStoreUnavailable

__all__ = ("STORED", "Blobs", "FolderBlobs", "ObjectBlobs", "open_blobs")

STORED = b"\x00lanefleet: the input lies in LANEFLEET_BLOB_URL"
"""The value of a job's blob key where the input is stored outside Redis."""

log = structlog.get_logger(__name__)

_ID = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z_-]{0,127}")
_TEMPORARY = ".part"
_IDS_PER_PAGE = 500
_RETRY_TIME = timedelta(seconds=10)


class Blobs(Protocol):
    """Bytes by job id. Every method may raise InputStoreUnavailable."""

    async def put(self, job_id: str, content: bytes) -> None:
        """Store the bytes; they are durable when this returns."""

    async def get(self, job_id: str) -> bytes | None:
        """Read the bytes; None where there are none."""

    async def delete(self, job_ids: Sequence[str]) -> None:
        """Delete those that exist."""

    def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """The ids of objects older than this, in pages."""


def open_blobs(url: str | None) -> Blobs | None:
    """The configured store, or None without one. Raises ConfigurationError."""
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and len(parts.path) > 1:
        return FolderBlobs(Path(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        return ObjectBlobs(_open_s3(url))
    raise ConfigurationError(
        "LANEFLEET_BLOB_URL must be file:///a/folder or s3://bucket/prefix, "
        f"not one that begins with {url.partition(':')[0][:12]!r}"
    )


def _open_s3(url: str) -> Any:
    try:
        from obstore.store import S3Store
    except ImportError as exc:
        raise ConfigurationError(
            "LANEFLEET_BLOB_URL names S3, which needs obstore; install lanefleet[s3]"
        ) from exc
    try:
        return S3Store.from_url(url, retry_config={"max_retries": 3, "retry_timeout": _RETRY_TIME})
    except Exception as exc:
        raise ConfigurationError(f"LANEFLEET_BLOB_URL: {exc}") from exc


class FolderBlobs:
    """Files in one folder, which the machines of the API and of the workers all mount."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(
                f"LANEFLEET_BLOB_URL: cannot make the folder {folder}: {exc.strerror}"
            ) from exc

    async def put(self, job_id: str, content: bytes) -> None:
        """Write under a temporary name, sync, then rename."""
        await self._in_thread(self._write, self._path(job_id), content)

    async def get(self, job_id: str) -> bytes | None:
        """Read the file."""
        if not _ID.fullmatch(job_id):
            return None
        with suppress(FileNotFoundError):
            content: bytes = await self._in_thread(self._path(job_id).read_bytes)
            return content
        return None

    async def delete(self, job_ids: Sequence[str]) -> None:
        """Delete the files."""
        paths = [self._path(one) for one in job_ids if _ID.fullmatch(one)]
        await self._in_thread(_remove, paths)

    async def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """By modification time; temporary files that a crashed writer left are deleted as well."""
        names: list[str] = await self._in_thread(self._old_names, time.time() - seconds)
        for first in range(0, len(names), _IDS_PER_PAGE):
            yield names[first : first + _IDS_PER_PAGE]

    def _path(self, job_id: str) -> Path:
        if not _ID.fullmatch(job_id):
            raise ValueError(f"{job_id[:80]!r} cannot name an object")
        return self._folder / job_id

    def _write(self, path: Path, content: bytes) -> None:
        part = path.with_name(path.name + _TEMPORARY)
        try:
            with part.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except OSError:  # what a full disk took of it would keep the disk full
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def _old_names(self, before: float) -> list[str]:
        old = []
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):
                if not entry.is_file() or entry.stat().st_mtime >= before:
                    continue
                if entry.name.endswith(_TEMPORARY):
                    Path(entry.path).unlink(missing_ok=True)
                elif _ID.fullmatch(entry.name):
                    old.append(entry.name)
        return old

    @staticmethod
    async def _in_thread(call: Any, *args: Any) -> Any:
        try:
            return await asyncio.to_thread(call, *args)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise _unavailable(exc) from exc


class ObjectBlobs:
    """Objects under a prefix of an obstore store.

    Uses its blocking calls on threads: with its asynchronous ones, one process in three aborted
    at exit (obstore 0.12, Python 3.11).
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    async def put(self, job_id: str, content: bytes) -> None:
        """Upload the object; S3 makes it visible atomically."""
        if not _ID.fullmatch(job_id):
            raise ValueError(f"{job_id[:80]!r} cannot name an object")
        await self._try(self._store.put, job_id, content)

    async def get(self, job_id: str) -> bytes | None:
        """Download the object."""
        if not _ID.fullmatch(job_id):
            return None
        with suppress(FileNotFoundError):
            content: bytes = await self._try(lambda: bytes(self._store.get(job_id).bytes()))
            return content
        return None

    async def delete(self, job_ids: Sequence[str]) -> None:
        """Delete the objects, many per request."""
        names = [one for one in job_ids if _ID.fullmatch(one)]
        if names:
            with suppress(FileNotFoundError):
                await self._try(self._store.delete, names)

    async def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """By the store's modification times, compared with the local clock."""
        before = time.time() - seconds
        pages = self._store.list(chunk_size=_IDS_PER_PAGE)
        while True:
            page = await self._try(next, pages, None)
            if page is None:
                return
            yield [
                one["path"]
                for one in page
                if one["last_modified"].timestamp() < before and _ID.fullmatch(one["path"])
            ]

    @staticmethod
    async def _try(call: Any, *args: Any) -> Any:
        """Call on a thread. obstore raises a dozen types for network errors; not found is Python's
        own type.
        """
        try:
            return await asyncio.to_thread(call, *args)
        except FileNotFoundError:
            raise
        except Exception as exc:
            raise _unavailable(exc) from exc


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _unavailable(error: Exception) -> InputStoreUnavailable:
    log.warning("input_store_failed", error=str(error)[:500], exc_type=type(error).__name__)
    return InputStoreUnavailable("where large inputs are kept fails now; try again shortly")

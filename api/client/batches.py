"""Files, and batches over them. For both clients."""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from . import batch_calls as calls
from .calls import Call
from .errors import ClientError

__all__ = ("AsyncBatchOperations", "BatchOperations")

_LOOK_SECONDS = (0.2, 5.0)


class BatchOperations(ABC):
    """Of `Client`."""

    @abstractmethod
    def _call(self, call: Call) -> Any: ...

    @abstractmethod
    def _stream(self, call: Call, timeout: float | None = None) -> Iterator[bytes]: ...

    def create_file(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        purpose: str = "batch",
        expires_seconds: int | None = None,
    ) -> dict[str, Any]:
        """Upload a file: its path, or what is open for reading bytes. It is read in pieces."""
        name = calls.name_of(file)
        if not isinstance(file, str | os.PathLike):
            call = calls.create_file(file, name, purpose, expires_seconds)
            return cast("dict[str, Any]", self._call(call))
        with Path(file).open("rb") as content:
            call = calls.create_file(content, name, purpose, expires_seconds)
            return cast("dict[str, Any]", self._call(call))

    def list_files(self, *, limit: int = 100, after: str | None = None) -> list[dict[str, Any]]:
        """Your files, newest first; continue with `after`, the last id of the page before."""
        answer = self._call(calls.list_files(limit, after))
        return cast("list[dict[str, Any]]", answer["data"])

    def get_file(self, file: str) -> dict[str, Any]:
        """One file's name, size and times."""
        return cast("dict[str, Any]", self._call(calls.get_file(file)))

    def get_file_content(self, file: str) -> Iterator[bytes]:
        """A file's bytes, in pieces as they arrive."""
        return self._stream(calls.get_file_content(file))

    def delete_file(self, file: str) -> None:
        """Delete a file that no unfinished batch reads."""
        self._call(calls.delete_file(file))

    def create_batch(
        self,
        input_file_id: str,
        endpoint: str = "/v1/jobs",
        *,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run the requests of an uploaded file."""
        fields = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": completion_window,
            "metadata": metadata,
        }
        return cast("dict[str, Any]", self._call(calls.create_batch(fields)))

    def list_batches(self, *, limit: int = 20, after: str | None = None) -> list[dict[str, Any]]:
        """Your batches, newest first; continue with `after`, the last id of the page before."""
        answer = self._call(calls.list_batches(limit, after))
        return cast("list[dict[str, Any]]", answer["data"])

    def get_batch(self, batch: str) -> dict[str, Any]:
        """One batch: where it stands, how far it is, and its files."""
        return cast("dict[str, Any]", self._call(calls.get_batch(batch)))

    def wait_batch(self, batch: str, timeout: float | None = None) -> dict[str, Any]:
        """Wait until a batch has ended, in any state; raises ClientError after `timeout`."""
        began, pause = time.monotonic(), _LOOK_SECONDS[0]
        while True:
            found = self.get_batch(batch)
            if found["status"] in calls.ENDED:
                return found
            if timeout is not None and time.monotonic() - began >= timeout:
                raise ClientError(f"batch {batch} is {found['status']} after {timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, _LOOK_SECONDS[1])

    def cancel_batch(self, batch: str) -> dict[str, Any]:
        """End a batch: what is done is in its files. May be repeated."""
        return cast("dict[str, Any]", self._call(calls.cancel_batch(batch)))


class AsyncBatchOperations(ABC):
    """Of `AsyncClient`."""

    @abstractmethod
    async def _call(self, call: Call) -> Any: ...

    @abstractmethod
    def _stream(self, call: Call, timeout: float | None = None) -> AsyncIterator[bytes]: ...

    async def create_file(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        purpose: str = "batch",
        expires_seconds: int | None = None,
    ) -> dict[str, Any]:
        """Upload a file: its path, or what is open for reading bytes. It is read in pieces."""
        name = calls.name_of(file)
        if not isinstance(file, str | os.PathLike):
            call = calls.create_file(file, name, purpose, expires_seconds)
            return cast("dict[str, Any]", await self._call(call))
        with Path(file).open("rb") as content:
            call = calls.create_file(content, name, purpose, expires_seconds)
            return cast("dict[str, Any]", await self._call(call))

    async def list_files(
        self, *, limit: int = 100, after: str | None = None
    ) -> list[dict[str, Any]]:
        """Your files, newest first; continue with `after`, the last id of the page before."""
        answer = await self._call(calls.list_files(limit, after))
        return cast("list[dict[str, Any]]", answer["data"])

    async def get_file(self, file: str) -> dict[str, Any]:
        """One file's name, size and times."""
        return cast("dict[str, Any]", await self._call(calls.get_file(file)))

    def get_file_content(self, file: str) -> AsyncIterator[bytes]:
        """A file's bytes, in pieces as they arrive."""
        return self._stream(calls.get_file_content(file))

    async def delete_file(self, file: str) -> None:
        """Delete a file that no unfinished batch reads."""
        await self._call(calls.delete_file(file))

    async def create_batch(
        self,
        input_file_id: str,
        endpoint: str = "/v1/jobs",
        *,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run the requests of an uploaded file."""
        fields = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": completion_window,
            "metadata": metadata,
        }
        return cast("dict[str, Any]", await self._call(calls.create_batch(fields)))

    async def list_batches(
        self, *, limit: int = 20, after: str | None = None
    ) -> list[dict[str, Any]]:
        """Your batches, newest first; continue with `after`, the last id of the page before."""
        answer = await self._call(calls.list_batches(limit, after))
        return cast("list[dict[str, Any]]", answer["data"])

    async def get_batch(self, batch: str) -> dict[str, Any]:
        """One batch: where it stands, how far it is, and its files."""
        return cast("dict[str, Any]", await self._call(calls.get_batch(batch)))

    async def wait_batch(self, batch: str, timeout: float | None = None) -> dict[str, Any]:
        """Wait until a batch has ended, in any state; raises ClientError after `timeout`."""
        began, pause = time.monotonic(), _LOOK_SECONDS[0]
        while True:
            found = await self.get_batch(batch)
            if found["status"] in calls.ENDED:
                return found
            if timeout is not None and time.monotonic() - began >= timeout:
                raise ClientError(f"batch {batch} is {found['status']} after {timeout:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LOOK_SECONDS[1])

    async def cancel_batch(self, batch: str) -> dict[str, Any]:
        """End a batch: what is done is in its files. May be repeated."""
        return cast("dict[str, Any]", await self._call(calls.cancel_batch(batch)))

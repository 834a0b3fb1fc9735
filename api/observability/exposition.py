"""The text at `/metrics`: of this process, or of all that share its port.

Where there are several, a scrape reaches any one of them. It sends its counts to the parent and
gets the sum of all, so the sum contains whatever was ever exposed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque

import structlog

from api.observability import snapshot
from api.observability.channel import ASKED, COUNTED, HEAD, frame
from api.observability.collector import ApiCollector
from common.metrics.exposition import text_of
from common.redis.ending import end_tasks

log = structlog.get_logger(__name__)

_TELL_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_UNREAD_BYTES = 1024 * 1024


class Exposition:
    """The metrics of one API process, and through its parent those of all."""

    def __init__(self, collector: ApiCollector, parent: int | None = None) -> None:
        """parent is the descriptor of the socket to the parent; None where there is none."""
        self._collector = collector
        self._parent = parent
        self._writer: asyncio.StreamWriter | None = None
        self._questions: deque[asyncio.Future[bytes]] = deque()
        """Those that the parent has not answered yet; it answers in order."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start to tell the parent, once a second."""
        if self._parent is None:
            return
        reader, self._writer = await asyncio.open_unix_connection(
            sock=socket.socket(fileno=self._parent)
        )
        self._tasks = [
            asyncio.create_task(self._tell(self._writer), name="metrics-tell"),
            asyncio.create_task(self._hear(reader), name="metrics-hear"),
        ]

    async def stop(self) -> None:
        """Tell it for the last time."""
        await end_tasks(*self._tasks)
        if self._writer is not None:
            self._writer.write(self._counted(COUNTED))
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def text(self) -> bytes:
        """In Prometheus' text format; raises TimeoutError where the parent does not answer."""
        if self._writer is None:
            return text_of(self._collector.collect())
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._questions.append(answer)
        self._writer.write(self._counted(ASKED))
        async with asyncio.timeout(_ANSWER_SECONDS):
            return text_of(snapshot.families_of(snapshot.load(await answer)))

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():  # the parent has ended, and so will this process
            await asyncio.sleep(_TELL_SECONDS)
            if writer.transport.get_write_buffer_size() > _UNREAD_BYTES:
                continue  # the parent hangs
            try:
                writer.write(self._counted(COUNTED))
            except Exception:
                log.exception("metrics_not_told")

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):  # the parent has ended
            while True:
                size, _ = HEAD.unpack(await reader.readexactly(HEAD.size))
                answer = await reader.readexactly(size)
                question = self._questions.popleft()
                if not question.done():
                    question.set_result(answer)

    def _counted(self, kind: bytes) -> bytes:
        counted = snapshot.snapshot_of(self._collector.collect())
        return frame(kind, snapshot.dump(counted))

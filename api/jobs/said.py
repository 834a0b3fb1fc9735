"""Reads what jobs say while they run: the streams of all readers of a process, by one connection.

A job's stream in Redis has an entry for each step, numbered from 1, and each entry is published as
well (common/redis/keys.py). A reader subscribes, reads the stream once, and then lives on what is
published. Wherever the next number is not the next, or the connection was lost, or the reader is so
slow that its buffer is full, it reads the stream again: nothing is kept for it here that Redis has.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import redis.asyncio
import structlog
from redis.asyncio.connection import Connection
from redis.exceptions import NoPermissionError

from common.generation.said import Delta, read_entry
from common.redis.connect import database_of
from common.redis.ending import end_tasks
from common.redis.keys import said_key, scoped_channel
from common.redis.refusals import tell_refusal
from common.redis.trouble import TROUBLE

log = structlog.get_logger(__name__)

_RECONNECT_SECONDS = 0.5
_PING_SECONDS = 10.0
_CONFIRM_SECONDS = 2.0
_LOOK_SECONDS = 0.1
"""How often a stream is read whose channel nobody can be subscribed to."""
_ENTRIES_PER_READ = 500
_READS_AT_ONCE = 8

Entry = Sequence[Delta]
"""What a step has added to the choices of a job."""


class SaidReader:
    """One reader of one stream. `wake` is called whenever there may be something to take."""

    def __init__(
        self, streams: SaidStreams, job_id: str, after: int, wake: Callable[[], None]
    ) -> None:
        self._streams = streams
        self.job_id = job_id
        self.number = after
        """Of the last entry that was taken."""
        self._wake = wake
        self._buffer: deque[tuple[int, Entry]] = deque()
        self._behind = True
        """Whether the stream has to be read: what is published meanwhile is not kept."""
        self._cut = False
        """Whether the next entry is gone from the stream; the result tells the rest."""

    def hear(self, number: int, entry: Entry) -> None:
        """Keep an entry that was published."""
        if not self._behind:
            if len(self._buffer) >= self._streams.most_entries:
                self.fall_behind()
            elif number > self.number:
                self._buffer.append((number, entry))
        self._wake()

    def fall_behind(self) -> None:
        """Have the stream read again."""
        self._behind = True
        self._buffer.clear()

    async def take(self) -> list[tuple[int, Entry]]:
        """The entries after the last one, as far as they are there now. May raise RedisError."""
        taken: list[tuple[int, Entry]] = []
        if self._behind and not self._cut:
            taken = await self._read()
        while self._buffer and not self._cut:
            number, entry = self._buffer.popleft()
            if number <= self.number:
                continue
            if number > self.number + 1:
                self.fall_behind()
                self._wake()
                break
            self.number = number
            taken.append((number, entry))
        return taken

    async def rest(self) -> list[tuple[int, Entry]]:
        """All that is left of a stream to which nothing is added any more."""
        taken: list[tuple[int, Entry]] = []
        self.fall_behind()
        while not self._cut and (page := await self._streams.read(self.job_id, self.number)):
            taken += self._next_of(page)
        return taken

    async def _read(self) -> list[tuple[int, Entry]]:
        sure = await self._streams.confirm(self.job_id)
        self._behind = False  # from here on what is published is kept
        try:
            page = await self._streams.read(self.job_id, self.number)
        except BaseException:
            self.fall_behind()
            raise
        taken = self._next_of(page)
        if len(page) >= _ENTRIES_PER_READ:
            self.fall_behind()
            self._wake()
        elif not sure:
            self.fall_behind()
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._wake)
        return taken

    def _next_of(self, page: Sequence[tuple[int, Entry]]) -> list[tuple[int, Entry]]:
        """The entries of a page, as long as each is the next."""
        taken = []
        for number, entry in page:
            if number != self.number + 1:
                self._cut = True
                break
            self.number = number
            taken.append((number, entry))
        return taken


class SaidStreams:
    """All readers of the process."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        most_entries: int,
        keepalive_seconds: float = _PING_SECONDS,
    ) -> None:
        """most_entries is how many entries are kept for a reader that is slower."""
        self.most_entries = most_entries
        self._client = client
        self._ping_seconds = min(_PING_SECONDS, keepalive_seconds)
        self._database = database_of(client)
        self._readers: dict[str, set[SaidReader]] = defaultdict(set)
        """By channel."""
        self._confirmed: dict[str, asyncio.Event] = {}
        self._leaving: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._deaf = False
        self._heard = 0
        """Messages, for telling a silent connection."""

    @property
    def reading(self) -> int:
        """Number of readers."""
        return sum(map(len, self._readers.values()))

    async def stop(self) -> None:
        """Stop listening."""
        await end_tasks(self._listener)
        await end_tasks(self._leaving)

    async def open(self, job_id: str, after: int, wake: Callable[[], None]) -> SaidReader:
        """A reader of this job's stream after the entry of this number, to be closed."""
        reader, channel = SaidReader(self, job_id, after, wake), self._channel(job_id)
        self._readers[channel].add(reader)
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="said-streams")
        if channel not in self._confirmed:
            self._confirmed[channel] = asyncio.Event()
            await self._send("SUBSCRIBE", channel)
        return reader

    def close(self, reader: SaidReader) -> None:
        """End a reader; with the last of a stream the subscription ends."""
        channel = self._channel(reader.job_id)
        self._readers[channel].discard(reader)
        if not self._readers[channel] and self._leaving is None:
            self._leaving = asyncio.create_task(self._leave())

    async def confirm(self, job_id: str) -> bool:
        """Wait until it is certain that what the job says from now on is heard; whether it is."""
        confirmed = self._confirmed[self._channel(job_id)]
        if confirmed.is_set() or self._deaf:
            return confirmed.is_set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONFIRM_SECONDS):
                await confirmed.wait()
        return confirmed.is_set()

    async def read(self, job_id: str, after: int) -> list[tuple[int, Entry]]:
        """The next entries of the stream after this one. May raise RedisError."""
        async with self._reads:
            found = await self._client.xrange(
                said_key(job_id), min=f"{after + 1}-0", count=_ENTRIES_PER_READ
            )
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", found)
        return [
            (int(number.partition(b"-")[0]), _entry_of(fields.get(b"d", b"")))
            for number, fields in entries
        ]

    def _channel(self, job_id: str) -> str:
        return scoped_channel(said_key(job_id), self._database)

    async def _leave(self) -> None:
        """Unsubscribe in the next turn of the loop, from all channels that have no reader."""
        await asyncio.sleep(0)
        gone = [channel for channel, readers in self._readers.items() if not readers]
        for channel in gone:
            del self._readers[channel]
            self._confirmed.pop(channel, None)
        self._leaving = None
        if gone:
            await self._send("UNSUBSCRIBE", *gone)

    async def _send(self, *command: str) -> None:
        """Send, or have the connection replaced; the next one subscribes to all channels."""
        connection = self._connection
        if connection is None or not connection.is_connected:
            return
        try:
            await connection.send_command(*command)
        except Exception as exc:  # noqa: BLE001 - the listener closes it meanwhile in several ways
            TROUBLE.note("listening to what jobs say", exc)
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)

    async def _listen(self) -> None:
        while True:
            connection: Connection = self._client.connection_pool.make_connection()
            try:
                await connection.connect()
                self._connection = connection
                if self._confirmed:
                    await connection.send_command("SUBSCRIBE", *self._confirmed)
                await self._listen_on(connection)
            except NoPermissionError as exc:
                self._deaf = True
                seconds = f"{_LOOK_SECONDS:g} s"
                tell_refusal("SUBSCRIBE", f"streams are looked at every {seconds} instead", exc)
            except Exception as exc:  # noqa: BLE001 - without it every reader would be deaf
                TROUBLE.note("listening to what jobs say", exc)
            finally:
                self._connection = None
                for confirmed in self._confirmed.values():
                    confirmed.clear()
                with contextlib.suppress(Exception):
                    await connection.disconnect(nowait=True)
            for readers in list(self._readers.values()):
                for reader in readers:
                    reader.fall_behind()
                    reader.hear(0, ())
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen_on(self, connection: Connection) -> None:
        """Read messages until the connection is dead. A timer for each would cost 6 us."""
        keeper = asyncio.create_task(self._keep_alive(connection))
        try:
            while True:
                self._hear(await connection.read_response(timeout=math.inf))
        finally:
            await end_tasks(keeper)

    async def _keep_alive(self, connection: Connection) -> None:
        """Ping a silent connection, and end one that stays silent: then its reading fails."""
        while True:
            heard = self._heard
            await asyncio.sleep(self._ping_seconds)
            if self._heard != heard:
                continue
            await connection.send_command("PING")
            await asyncio.sleep(self._ping_seconds)
            if self._heard == heard:
                await connection.disconnect(nowait=True)

    def _hear(self, message: Any) -> None:
        self._heard += 1
        if not isinstance(message, list) or len(message) < 3:
            return
        kind, channel = message[0], bytes(message[1]).decode()
        if kind == b"subscribe" and channel in self._confirmed:
            self._confirmed[channel].set()
            self._deaf = False
        elif kind == b"message" and (readers := self._readers.get(channel)):
            number, _, text = bytes(message[2]).partition(b" ")
            try:
                said = int(number), read_entry(text)
            except (ValueError, KeyError, TypeError):  # any client may publish here
                for reader in readers:
                    reader.fall_behind()
                said = 0, []
            for reader in readers:
                reader.hear(*said)


def _entry_of(raw: bytes) -> Entry:
    """The entry; one that cannot be read says nothing, and holds up none of the others."""
    try:
        return read_entry(raw)
    except (ValueError, KeyError, TypeError) as exc:
        log.warning("stream_entry_unreadable", error=str(exc))
        return ()

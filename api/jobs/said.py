"""Reads what jobs say while they run: the streams of all readers of a process, by one connection.

A job's stream in Redis has an entry for each step, numbered from 1, and each entry is published as
well (common/redis/keys.py). A reader subscribes, reads the stream once, and then lives on what is
published. Wherever the next number is not the next, or the connection was lost, or the reader is so
slow that its buffer is full, it reads the stream again: nothing is kept for it here that Redis has.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import cast

import redis.asyncio
import structlog

from api.jobs.subscriptions import PING_SECONDS, Subscriptions
from common.generation.said import Delta, read_entry
from common.redis.connect import database_of
from common.redis.keys import said_key, scoped_channel

log = structlog.get_logger(__name__)

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

    @property
    def is_live(self) -> bool:
        """Whether it lives on what is published; else the stream has to be read."""
        return not self._behind or self._cut

    async def take(self) -> list[tuple[int, Entry]]:
        """The entries after the last one, as far as they are there now. May raise RedisError."""
        taken = [] if self.is_live else await self._read()
        return taken + self.kept()

    def kept(self) -> list[tuple[int, Entry]]:
        """The entries after the last one that were published, as far as each is the next."""
        taken: list[tuple[int, Entry]] = []
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
        keepalive_seconds: float = PING_SECONDS,
    ) -> None:
        """most_entries is how many entries are kept for a reader that is slower."""
        self.most_entries = most_entries
        self._client = client
        self._database = database_of(client)
        self._readers: dict[str, set[SaidReader]] = defaultdict(set)
        """By channel."""
        self._subscriptions = Subscriptions(
            *(client, keepalive_seconds, self._hear, self._read_again),
            is_wanted=self._readers.__contains__,
            during="listening to what jobs say",
            instead=f"streams are looked at every {_LOOK_SECONDS:g} s instead",
        )
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)

    @property
    def reading(self) -> int:
        """Number of readers."""
        return sum(map(len, self._readers.values()))

    async def stop(self) -> None:
        """Stop listening."""
        await self._subscriptions.stop()

    async def open(self, job_id: str, after: int, wake: Callable[[], None]) -> SaidReader:
        """A reader of this job's stream after the entry of this number, to be closed."""
        reader, channel = SaidReader(self, job_id, after, wake), self._channel(job_id)
        self._readers[channel].add(reader)
        self._subscriptions.start()
        await self._subscriptions.subscribe(channel)
        return reader

    def close(self, reader: SaidReader) -> None:
        """End a reader; with the last of a stream the subscription ends."""
        channel = self._channel(reader.job_id)
        self._readers[channel].discard(reader)
        if not self._readers[channel]:
            del self._readers[channel]
            self._subscriptions.leave(channel)

    async def confirm(self, job_id: str) -> bool:
        """Wait until it is certain that what the job says from now on is heard; whether it is."""
        return await self._subscriptions.confirm([self._channel(job_id)])

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

    def _read_again(self) -> None:
        for readers in list(self._readers.values()):
            for reader in readers:
                reader.fall_behind()
                reader.hear(0, ())

    def _hear(self, channel: str, message: bytes) -> None:
        readers = self._readers.get(channel)
        if not readers:
            return
        number, _, text = message.partition(b" ")
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

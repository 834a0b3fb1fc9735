"""A reader of a stream: what is published, what is read, and what becomes of it when it is slow."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import redis.asyncio

from api.jobs.said import Entry, SaidReader, SaidStreams
from common.generation.said import Delta


class Streams:
    """One stream, as the reader sees it."""

    def __init__(self, most_entries: int = 3) -> None:
        self.most_entries = most_entries
        self.entries: dict[int, Entry] = {}
        self.sure = True
        self.reads = 0

    async def confirm(self, _job_id: str) -> bool:
        return self.sure

    async def read(self, _job_id: str, after: int) -> list[tuple[int, Entry]]:
        self.reads += 1
        await asyncio.sleep(0)
        return [(n, entry) for n, entry in sorted(self.entries.items()) if n > after][:500]

    def say(self, *numbers: int) -> None:
        self.entries |= {number: entry(number) for number in numbers}


def entry(number: int) -> Entry:
    return [Delta(0, [number], "x")]


def reader_of(streams: Streams, after: int = 0) -> tuple[SaidReader, list[str]]:
    woken: list[str] = []
    reader = SaidReader(cast("SaidStreams", streams), "a", after, lambda: woken.append("woken"))
    return reader, woken


def test_it_reads_once_and_lives_on_what_is_published() -> None:
    async def run() -> None:
        streams = Streams()
        streams.say(1, 2)
        reader, woken = reader_of(streams)
        assert [n for n, _ in await reader.take()] == [1, 2]
        for number in (2, 3, 4):
            reader.hear(number, entry(number))
        assert [n for n, _ in await reader.take()] == [3, 4]
        assert (streams.reads, len(woken)) == (1, 3)

    asyncio.run(run())


def test_a_gap_is_read_from_the_stream() -> None:
    async def run() -> None:
        streams = Streams()
        reader, _ = reader_of(streams)
        assert await reader.take() == []
        streams.say(1, 2, 3)
        reader.hear(3, entry(3))
        assert await reader.take() == []
        assert [n for n, _ in await reader.take()] == [1, 2, 3]

    asyncio.run(run())


def test_a_slow_reader_keeps_a_bounded_number_and_reads_the_rest_again() -> None:
    async def run() -> None:
        streams = Streams(most_entries=3)
        reader, _ = reader_of(streams)
        await reader.take()
        for number in range(1, 2_000):
            streams.say(number)
            reader.hear(number, entry(number))
            assert len(reader._buffer) <= 3
        found: list[int] = []
        while len(found) < 1_999:
            found += [n for n, _ in await reader.take()]
        assert found == list(range(1, 2_000))

    asyncio.run(run())


def test_what_is_published_while_it_reads_is_kept() -> None:
    async def run() -> None:
        streams = Streams()
        reader, _ = reader_of(streams)
        streams.say(1)
        taking = asyncio.create_task(reader.take())
        await asyncio.sleep(0)
        reader.hear(1, entry(1))
        reader.hear(2, entry(2))
        assert [n for n, _ in await taking] == [1, 2]

    asyncio.run(run())


def test_it_looks_again_while_nobody_may_subscribe() -> None:
    async def run() -> None:
        streams = Streams()
        streams.sure = False
        reader, woken = reader_of(streams)
        assert await reader.take() == []
        async with asyncio.timeout(5):
            while not woken:
                await asyncio.sleep(0.01)
        streams.say(1)
        assert [n for n, _ in await reader.take()] == [1]

    asyncio.run(run())


@pytest.mark.parametrize("kept", [(), (3, 4)])
def test_what_is_gone_from_the_stream_ends_the_reading(kept: tuple[int, ...]) -> None:
    async def run() -> None:
        streams = Streams()
        streams.say(*kept)
        reader, _ = reader_of(streams)
        assert await reader.take() == []
        assert await reader.rest() == []

    asyncio.run(run())


def test_the_rest_of_a_stream_is_all_of_it() -> None:
    async def run() -> None:
        streams = Streams()
        streams.say(*range(1, 1_201))
        reader, _ = reader_of(streams, after=7)
        assert [n for n, _ in await reader.rest()] == list(range(8, 1_201))

    asyncio.run(run())


def test_an_error_while_reading_has_it_read_again() -> None:
    async def run() -> None:
        streams = Streams()
        reader, _ = reader_of(streams)
        read, failing = streams.read, [True]

        async def fail(job_id: str, after: int) -> list[tuple[int, Entry]]:
            if failing:
                raise ConnectionError(failing.pop())
            return await read(job_id, after)

        streams.read = fail  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            await reader.take()
        streams.say(1)
        assert [n for n, _ in await reader.take()] == [1]

    asyncio.run(run())


class Connection:
    """A connection that says nothing, but answers so many pings."""

    def __init__(self, streams: SaidStreams, answers: int) -> None:
        self._streams, self._answers = streams, answers
        self.pings = 0
        self.ended = asyncio.Event()

    async def send_command(self, command: str) -> None:
        assert command == "PING"
        self.pings += 1
        if self.pings <= self._answers:
            self._streams._subscriptions._take(b"PONG")

    async def disconnect(self, *, nowait: bool) -> None:
        assert nowait
        self.ended.set()


def test_a_silent_connection_is_pinged_and_one_that_stays_silent_is_ended() -> None:
    async def run() -> None:
        client = redis.asyncio.Redis()
        streams = SaidStreams(client, 3, keepalive_seconds=0.01)
        connection = Connection(streams, answers=2)
        keeping = asyncio.create_task(streams._subscriptions._keep_alive(cast("Any", connection)))
        async with asyncio.timeout(10):
            await connection.ended.wait()
        assert connection.pings == 3
        keeping.cancel()
        await client.aclose()

    asyncio.run(run())

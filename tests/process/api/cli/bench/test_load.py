"""The load against a server that answers as it is told: it follows, waits, connects again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from api.cli.bench.generator import Address, Load
from api.cli.bench.inputs import Given, Target, requests
from api.cli.bench.limit import limit
from api.cli.bench.meter import Used
from api.cli.bench.pooling import Turn, stage_of

DONE = b'{"id":"1","state":"succeeded","batch_size":4,"result":{"state":"queued"},"links":{}}'
OPEN = b'{"id":"1","state":"queued","links":{"self":"/v1/jobs/1"}}'
FULL = b'{"type":"https://lanefleet.dev/problems/lane-full","title":"x"}'


class Front:
    """Answers requests from a script, one after the other, and counts what it was asked."""

    def __init__(self, answers: Iterator[bytes | None]) -> None:
        self.answers, self.asked = answers, Counter[str]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            words, _, rest = head.decode().partition("\r\n")
            self.asked[words] += 1
            length = int(rest.lower().partition("content-length: ")[2].partition("\r")[0] or 0)
            await reader.readexactly(length)
            answer = next(self.answers)
            if answer is None:
                writer.close()
                return
            writer.write(answer)


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def _load(answers: list[bytes | None], most: int) -> tuple[Load, Front]:
    front = Front(iter(answers))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await front.serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = Target(f"127.0.0.1:{port}", "", "m", "text", {}, 30)
    inputs = requests(target, Given(texts=["a"]), repeat=True)
    load = Load(Address("127.0.0.1", port), target, inputs, 1, 20.0, most)
    load.start()
    await asyncio.wait_for(load.done.wait(), 30)
    load.tally = await load.stop()
    server.close()
    return load, front


def test_a_client_sends_follows_waits_when_refused_and_connects_again() -> None:
    answers = [
        http(202, OPEN),
        http(200, DONE),
        http(429, FULL, "Retry-After: 0.01"),
        None,
        http(200, DONE, "Connection: close"),
        http(200, DONE),
    ]
    load, front = asyncio.run(_load(answers, most=5))
    assert len(load.tally.at) == 3
    assert load.tally.errors == {"429 lane-full": 1, "connection-lost": 1}
    assert load.tally.batch_sizes == {4: 3}
    assert front.asked["GET /v1/jobs/1?wait=30 HTTP/1.1"] == 1
    stage = stage_of("m", 1, [Turn(load.tally, Used(load.tally.at[0], load.tally.at[-1]))])
    assert stage.batches == {4: 1}
    assert stage.items == 3
    assert stage.p50_ms <= stage.p99_ms <= stage.worst_ms


def test_a_front_that_is_not_there_is_an_error_by_its_kind() -> None:
    async def refused() -> Counter[str]:
        target = Target("127.0.0.1:9", "", "m", "text", {}, 30)
        inputs = requests(target, Given(texts=["a"]), repeat=True)
        load = Load(Address("127.0.0.1", 9), target, inputs, 1, 20.0, most=1)
        load.start()
        await asyncio.wait_for(load.done.wait(), 30)
        return (await load.stop()).errors

    assert asyncio.run(refused()) == {"connection-refused": 1}


def test_the_generator_measures_itself_against_an_echo() -> None:
    target = Target("elsewhere", "/root", "m", "text", {}, 30)
    assert asyncio.run(limit(target, Given(), 2, 0.1)) > 0

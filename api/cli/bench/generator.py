"""A closed loop of clients over kept connections: each sends, waits for its result, sends again.

One event loop over bare protocols and a parser in C, so that the front and not the generator is
what is measured; what it takes of a core is kept with every stage, and `limit.py` measures how far
it goes.
A job that is not done within `Prefer: wait` is followed to its end; its latency counts from the
submit. A refused client waits as it is told to, at most a second, and then asks again.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import orjson

from api.cli.bench.inputs import Target

_CONNECT_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 1.0
_SWEEP_SECONDS = 0.5
_BATCH_SIZE = re.compile(rb'"batch_size":(\d+)')


@dataclass(slots=True)
class Tally:
    """What came back while it was counted; times by the steady clock."""

    at: array[float] = field(default_factory=lambda: array("d"))
    latency_ms: array[float] = field(default_factory=lambda: array("d"))
    """Of the same answers."""
    errors: Counter[str] = field(default_factory=Counter)
    reused: int = 0
    batch_sizes: Counter[int] = field(default_factory=Counter)
    """Answers by the size of the batch that their job ran in."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API listens."""

    host: str
    port: int
    tls: bool = False


class Load:
    """`clients` connections under load; start, count, stop."""

    def __init__(
        self,
        address: Address,
        target: Target,
        requests: Iterator[bytes],
        clients: int,
        timeout_seconds: float,
        most: int | None = None,
    ) -> None:
        """most is how many requests to count; then `done` is set. None is without a bound."""
        self.address, self.target, self.clients = address, target, clients
        self.requests = requests
        self.tally = Tally()
        self.done = asyncio.Event()
        self.sending = True
        self._timeout_seconds = timeout_seconds
        self._left = most
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: set[_Connection] = set()

    def start(self) -> None:
        """Open the connections and send; returns at once."""
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        self._tasks.append(asyncio.create_task(self._sweep()))

    def count(self) -> None:
        """Forget what came until now: it was the warm-up."""
        self.tally = Tally()

    async def stop(self) -> Tally:
        """Send no more, count no more, close; returns what was counted."""
        tally, self.tally, self.sending = self.tally, Tally(), False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        return tally

    # Called by connections.

    def succeeded(self, began: float, now: float, body: bytes) -> None:
        """Count a result, unless there are enough."""
        if self._left == 0:
            return
        tally = self.tally
        tally.at.append(now)
        tally.latency_ms.append((now - began) * 1000)
        head = body.partition(b'"result":')[0]
        tally.reused += is_reused(head)
        if found := _BATCH_SIZE.search(head):
            tally.batch_sizes[int(found[1])] += 1
        self._count_down()

    def failed(self, kind: str) -> None:
        """Count an error of this kind, unless there are enough."""
        if self._left == 0:
            return
        self.tally.errors[kind] += 1
        self._count_down()

    def joined(self, connection: _Connection) -> None:
        """A connection is open."""
        self._connections.add(connection)

    def left(self, connection: _Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)

    def _count_down(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.sending = False
                self.done.set()

    async def _client(self) -> None:
        """Keep one connection open."""
        loop, address = asyncio.get_running_loop(), self.address
        context = ssl.create_default_context() if address.tls else None
        while self.sending:
            try:
                _, protocol = await loop.create_connection(
                    lambda: _Connection(self), address.host, address.port, ssl=context
                )
            except OSError as exc:
                self.failed(_kind_of(exc))
                await asyncio.sleep(_CONNECT_PAUSE_SECONDS)
                continue
            await protocol.closed.wait()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            limit = time.monotonic() - self._timeout_seconds
            for connection in list(self._connections):
                if connection.began is not None and connection.began < limit:
                    connection.give_up("timeout")


class _Connection(asyncio.Protocol):
    """One client: at most one request is under way."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.began: float | None = None
        """When the current job was submitted."""
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._body: list[bytes] = []
        self._retry_after = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.load.joined(self)
        self._submit()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.began is not None:
            self.began = None
            self.load.failed("connection-lost")
        self.load.left(self)
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("not-http")

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            with suppress(ValueError):
                self._retry_after = float(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), b"".join(self._body)
        alive = self._parser.should_keep_alive()
        began, now = self.began, time.monotonic()
        if began is None:
            return
        if status in (200, 202) and (path := unfinished(status, body)):
            self._send(self.load.target.get(path))
            return
        self.began = None
        pause = 0.0
        if (kind := error_kind(status, body)) is None:
            self.load.succeeded(began, now, body)
        else:
            self.load.failed(kind)
            pause = min(self._retry_after or 0.1, _LONGEST_PAUSE_SECONDS)
        if not alive:
            self.abort()
        elif pause:
            asyncio.get_running_loop().call_later(pause, self._submit)
        else:
            self._submit()

    # Called by the load.

    def give_up(self, kind: str) -> None:
        """Count the current request as an error of this kind, and open another connection."""
        self.began = None
        self.load.failed(kind)
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _submit(self) -> None:
        if not self.load.sending or self.closed.is_set():
            self.abort()
            return
        request = next(self.load.requests)
        self.began = time.monotonic()
        self._send(request)

    def _send(self, request: bytes) -> None:
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._body, self._retry_after = [], 0.0
        self._transport.write(request)


def unfinished(status: int, body: bytes) -> str | None:
    """Where to ask again for a job that has not ended; None for any other answer."""
    if status != 202 and not _is_open(body):
        return None
    try:
        job = orjson.loads(body)
        return f"{job['links']['self']}?wait=30" if job["state"] in ("queued", "running") else None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _is_open(body: bytes) -> bool:
    head = body[:400]
    return b'"state":"queued"' in head or b'"state":"running"' in head


def error_kind(status: int, body: bytes) -> str | None:
    """None for a result; else `429 lane-full`, `failed: invalid_input`, `500` and the like."""
    if status == 200 and b'"state":"succeeded"' in body[:400]:
        return None
    try:
        found = orjson.loads(body)
        if "state" in found:
            if found["state"] == "succeeded":
                return None
            return f"{found['state']}: {(found.get('error') or {}).get('reason', 'no reason')}"
        return f"{status} {str(found['type']).rpartition('/')[2]}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return str(status)


def is_reused(head: bytes) -> bool:
    """Whether the result is another job's: of the cache, or shared. head is what precedes it."""
    return b'"cached":true' in head or b'"shared":true' in head


def _kind_of(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection-refused"
    return "tls" if isinstance(error, ssl.SSLError) else type(error).__name__.lower()

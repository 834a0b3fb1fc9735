"""A receiver of webhooks on loopback: answers as told, and keeps what came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

HOST = "127.0.0.2"
"""Loopback too, but not where anything else listens: so tests can open it alone."""


@dataclass(frozen=True)
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """Its webhook-id."""
        return self.headers["webhook-id"]


Answer = tuple[int, dict[str, str]] | None | float
"""Status and headers; None resets the connection, a number hangs for so many seconds."""


@dataclass
class Receiver:
    """Listens in a thread of its own."""

    answer: Callable[[Received], Answer] = lambda _one: (204, {})
    received: list[Received] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}/hook"

    def ids(self) -> set[str]:
        """Every webhook-id that came."""
        return {one.id for one in list(self.received)}

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        one = Received(headers, await request.read())
        self.received.append(one)
        answer = self.answer(one)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = (200, {})
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError
        status, more = answer
        return web.Response(status=status, headers=more, text=f"answer {status}")


@contextmanager
def listening(receiver: Receiver) -> Iterator[Receiver]:
    """The receiver, listening."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/{tail:.*}", receiver._handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def begin() -> None:
        await runner.setup()
        site = web.TCPSite(runner, HOST, receiver.port)
        await site.start()
        assert site._server is not None
        receiver.port = site._server.sockets[0].getsockname()[1]
        ready.set()

    def run() -> None:
        loop.create_task(begin())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield receiver
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

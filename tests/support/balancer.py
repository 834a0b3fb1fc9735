"""A plain TCP balancer: each connection goes to the next backend, whatever it carries."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from itertools import cycle
from urllib.parse import urlsplit


class Balancer:
    """Round robin over backends; counts what it sent to each."""

    def __init__(self, urls: list[str]) -> None:
        self._backends = [(str(p.hostname), int(p.port or 80)) for p in map(urlsplit, urls)]
        self._turns = cycle(self._backends)
        self.connections = dict.fromkeys(urls, 0)
        self.url = ""

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Until told to stop."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await stop.wait()
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self._backends:  # one that is down is passed over
            host, port = next(self._turns)
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(host, port)
                break
        else:
            writer.close()
            return
        self.connections[f"http://{host}:{port}"] += 1
        await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while received := await reader.read(65_536):
            writer.write(received)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def balancing(urls: list[str]) -> Iterator[Balancer]:
    """A balancer over these, in a thread of its own."""
    balancer, ready = Balancer(urls), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        loop.run_until_complete(balancer.serve(ready, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield balancer
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)

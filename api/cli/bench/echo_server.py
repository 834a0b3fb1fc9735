"""The echo that the load generator is measured against; prints its port, ends with its parent.

Run by its path and not as a module, so that it starts without the rest of the command line.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import cast

import httptools
import uvloop

_BODY = b'{"state":"succeeded","result":{}}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class _Echo(asyncio.Protocol):
    """Answers each request with the constant."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(_ANSWER)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = await loop.create_server(_Echo, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await ended.wait()
    os._exit(0)  # connections of the generator may be open still


if __name__ == "__main__":
    uvloop.run(_serve())

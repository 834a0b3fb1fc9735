"""A fast receiver of webhooks: answers 204 to any POST, and reports when all have come.

    python -m tests.benchmarks.webhook_receiver COUNT

Prints its port, then the seconds between the first and the last of COUNT requests.
"""

from __future__ import annotations

import asyncio
import sys
import time

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class _Receiver(asyncio.Protocol):
    count = 0
    began = 0.0
    wanted = 0
    done: asyncio.Event

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._left = b""

    def data_received(self, data: bytes) -> None:
        data = self._left + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            at = data.lower().find(b"content-length:", 0, end)
            size = int(data[at + 15 : data.find(b"\r", at)]) if at >= 0 else 0
            if len(data) < end + 4 + size:
                break
            data = data[end + 4 + size :]
            self._transport.write(_ANSWER)
            self._count()
        self._left = data

    @classmethod
    def _count(cls) -> None:
        if not cls.count:
            cls.began = time.perf_counter()
        cls.count += 1
        if cls.count == cls.wanted:
            cls.done.set()


async def main(wanted: int) -> None:
    """Receive so many."""
    _Receiver.wanted, _Receiver.done = wanted, asyncio.Event()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Receiver, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await _Receiver.done.wait()
    print(time.perf_counter() - _Receiver.began, flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

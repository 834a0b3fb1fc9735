"""Attacks on an API over plain sockets, and what they do to it meanwhile.

Sockets and not an HTTP client, as no client would send most of this.
"""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CLOSED = 0
"""Stands for a connection that was closed without an answer."""
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Target:
    """Where the API listens."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Target:
        address = urlsplit(url)
        return cls(address.hostname or "", address.port or 0)


def head(method: str, path: str, *fields: str, host: str = "127.0.0.1") -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(path: str, content_type: str, body: bytes, *fields: str, host: str = "127.0.0.1") -> bytes:
    """A whole request with a body."""
    length = f"Content-Length: {len(body)}"
    return head("POST", path, f"Content-Type: {content_type}", length, *fields, host=host) + body


def job(value: bytes, model: bytes = b"echo") -> bytes:
    """A job as JSON, its input as given."""
    return b'{"model":"%b","input":%b}' % (model, value)


async def answer_to(target: Target, pieces: Iterable[bytes] | AsyncIterator[bytes]) -> int:
    """Send the pieces until there is an answer; returns its status, or CLOSED."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    sending = asyncio.create_task(_send(writer, pieces))
    try:
        line = await asyncio.wait_for(reader.readline(), 60)
    except ConnectionError:
        line = b""
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.transport.abort()
    return int(line.split(b" ")[1]) if line.startswith(b"HTTP/1.1 ") else CLOSED


async def _send(
    writer: asyncio.StreamWriter, pieces: Iterable[bytes] | AsyncIterator[bytes]
) -> None:
    with suppress(ConnectionError):
        if isinstance(pieces, AsyncIterator):
            async for piece in pieces:
                writer.write(piece)
                await writer.drain()
        else:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()


def chunked(path: str, content_type: str, total_bytes: int) -> Iterable[bytes]:
    """A chunked body of this many bytes, in chunks of 1 MB, without Content-Length."""
    yield head("POST", path, f"Content-Type: {content_type}", "Transfer-Encoding: chunked")
    chunk = b"%x\r\n%b\r\n" % (_CHUNK, b"a" * _CHUNK)
    for _ in range(total_bytes // _CHUNK):
        yield chunk
    yield b"0\r\n\r\n"


def one_byte_chunks(path: str, content_type: str, chunks: int) -> Iterable[bytes]:
    """A body in chunks of one byte."""
    yield head("POST", path, f"Content-Type: {content_type}", "Transfer-Encoding: chunked")
    for _ in range(chunks // 1000):
        yield b"1\r\na\r\n" * 1000
    yield b"0\r\n\r\n"


async def dribble(beginning: bytes, seconds: float, pause: float = 0.4) -> AsyncIterator[bytes]:
    """A beginning, then a byte at a time."""
    yield beginning
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(pause)
        yield b"a"


def gzip_bomb(gigabytes: int) -> bytes:
    """Zeros, compressed a thousandfold."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(_CHUNK)
    packed = [packer.compress(zeros) for _ in range(min(gigabytes * 1024, 64))]
    return b"".join(packed) + packer.flush()


def pixel_bomb(side: int = 50_000) -> bytes:
    """A PNG of a few kilobytes that says it has side x side pixels."""

    def part(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side // 8 + 1) * 64, 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", rows) + part(b"IEND", b"")


def long_gif(frames: int = 10_000) -> bytes:
    """A GIF of one pixel and many frames."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return screen + frame * frames + b"\x3b"


@dataclass
class Watch:
    """Watches a process while it is attacked: its memory, and how fast /health answers."""

    target: Target
    pid: int
    rss_before: int = 0
    rss_peak: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self.rss_before = self.rss_peak = rss_bytes(self.pid)
        # A process of its own: one that attacks has no time to take times.
        self._prober = subprocess.Popen(
            [sys.executable, "-c", _PROBER, self.target.host, str(self.target.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        printed, _ = self._prober.communicate(b"stop\n", timeout=30)
        self._stop.set()
        self._sampler.join()
        self.latencies_ms = sorted(json.loads(printed))

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.rss_peak = max(self.rss_peak, rss_bytes(self.pid))

    @property
    def grown_mb(self) -> float:
        """How much larger it was at its largest."""
        return (self.rss_peak - self.rss_before) / 1024 / 1024

    @property
    def p99_ms(self) -> float:
        """Of /health."""
        return self.latencies_ms[int(len(self.latencies_ms) * 0.99)]


def rss_bytes(pid: int) -> int:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


_PROBER = """
import http.client, json, select, sys, time
latencies = []
while not select.select([sys.stdin], [], [], 0.01)[0]:
    began = time.perf_counter()
    connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200, answer.status
    latencies.append((time.perf_counter() - began) * 1000)
print(json.dumps(latencies))
"""

"""A closed loop over requests that differ: N in flight, each that ends replaced at once.

Raw sockets and one epoll, as in `load.py`, since the generator shares the
cores with what it measures; its own CPU is part of the figures.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Flight:
    """What the loop saw."""

    seconds: float
    latencies_ms: list[float]
    client_share: float
    """Of one core."""


class _Line:
    """One kept connection."""

    __slots__ = ("received", "sent_at", "sock")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.sock = socket.create_connection((str(parts.hostname), int(parts.port or 80)))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.sock.sendall(request)

    def answered(self) -> bool:
        """Read what is there; whether it completes a 200."""
        part = self.sock.recv(262_144)
        if not part:
            raise ConnectionError("the server closed a kept connection")
        self.received += part
        head, end, body = self.received.partition(_HEAD_END)
        if not end or len(body) < _length(head):
            return False
        if b" 200 " not in head[:16]:
            raise RuntimeError(f"refused: {self.received[:300]!r}")
        self.received = b""
        return True


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return int(next(line for line in lines if line.startswith(_LENGTH)).split(b":")[1])


def post(url: str, path: str, body: bytes, headers: str = "") -> bytes:
    """The bytes of a JSON POST that keeps its connection; headers end in CRLF each."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def fly(url: str, requests: Sequence[bytes], in_flight: int) -> Flight:
    """Send them all, never more than `in_flight` at once."""
    lines = [_Line(url) for _ in range(min(in_flight, len(requests)))]
    poll = select.epoll()
    for line in lines:
        poll.register(line.sock.fileno(), select.EPOLLIN)
    cpu, began = time.process_time(), time.perf_counter()
    try:
        latencies = _exchange(poll, lines, iter(requests))
    finally:
        for line in lines:
            line.sock.close()
        poll.close()
    wall = time.perf_counter() - began
    return Flight(wall, latencies, (time.process_time() - cpu) / wall)


def _exchange(poll: select.epoll, lines: list[_Line], left: Iterator[bytes]) -> list[float]:
    by_number = {line.sock.fileno(): line for line in lines}
    deadline = time.perf_counter() + _SECONDS
    latencies: list[float] = []
    out = 0
    for line in lines:
        line.send(next(left))
        out += 1
    while out:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{out} requests were not answered within {_SECONDS} s")
        for number, _ in poll.poll(1):
            line = by_number[number]
            if not line.answered():
                continue
            latencies.append((time.perf_counter() - line.sent_at) * 1000)
            request = next(left, None)
            if request is None:
                poll.unregister(number)  # a server may close what is idle
                out -= 1
            else:
                line.send(request)
    return latencies

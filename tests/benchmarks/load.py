"""Load for HTTP fronts: a closed loop over keep-alive sockets, and Poisson arrivals.

The closed loop is one epoll over raw sockets, at about 15 us a request, so
that the front and not the generator is what is measured; the generator's
own share of a core is in the tables all the same.
"""

from __future__ import annotations

import http.client
import random
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_THREADS = 16
_IDLE_SECONDS = 2.0
"""A connection idle for longer is not used again: uvicorn closes it after 5 s."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a closed loop saw."""

    requests: int
    seconds: float
    latencies_ms: list[float]
    generator_share: float
    """Of one core."""


class _Talk:
    """One connection: a request is out, its response comes in."""

    __slots__ = ("buffer", "sent_at", "sock")

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.sock.sendall(request)

    def complete(self) -> bool:
        """Read what is there; whether that completes the response."""
        received = self.sock.recv(65_536)
        if not received:
            raise ConnectionError("the front closed a keep-alive connection")
        self.buffer = self.buffer + received if self.buffer else received
        end = self.buffer.find(_HEAD_END)
        if end < 0:
            return False
        at = self.buffer.find(_LENGTH, 0, end) + len(_LENGTH)
        length = int(self.buffer[at : self.buffer.find(b"\r", at)])
        if len(self.buffer) < end + 4 + length:
            return False
        if not self.buffer.startswith(b"HTTP/1.1 202"):
            raise RuntimeError(f"refused: {self.buffer[:300]!r}")
        self.buffer = b""
        return True


def post_request(url: str, path: str, body: bytes) -> bytes:
    """The bytes of a JSON POST that keeps its connection."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def closed_loop(
    url: str,
    request: bytes,
    *,
    connections: int = 32,
    seconds: float | None = None,
    requests: int | None = None,
) -> Load:
    """Each connection sends, waits for a 202, sends again; ends by time or by count."""
    parts = urlsplit(url)
    talks = [_Talk((str(parts.hostname), int(parts.port or 80))) for _ in range(connections)]
    poll = select.epoll()
    by_fd = {talk.sock.fileno(): talk for talk in talks}
    for number in by_fd:
        poll.register(number, select.EPOLLIN)
    cpu, began = time.process_time(), time.perf_counter()
    try:
        latencies = _exchange(poll, by_fd, request, seconds, requests)
    finally:
        for talk in talks:
            talk.sock.close()
        poll.close()
    wall = time.perf_counter() - began
    return Load(len(latencies), wall, latencies, (time.process_time() - cpu) / wall)


def _exchange(
    poll: select.epoll,
    by_fd: dict[int, _Talk],
    request: bytes,
    seconds: float | None,
    requests: int | None,
) -> list[float]:
    clock = time.perf_counter
    deadline = clock() + (seconds if seconds is not None else 3_600)
    to_send = requests if requests is not None else 10**12
    latencies: list[float] = []
    out = 0
    for talk in by_fd.values():
        if to_send > 0:
            talk.send(request)
            to_send, out = to_send - 1, out + 1
    while out:
        for number, _ in poll.poll(10):
            talk = by_fd[number]
            if not talk.complete():
                continue
            now = clock()
            latencies.append((now - talk.sent_at) * 1000)
            if to_send > 0 and now < deadline:
                talk.send(request)
                to_send -= 1
            else:
                out -= 1
    return latencies


class Caller:
    """Blocking JSON calls over one kept connection a thread."""

    def __init__(self, url: str) -> None:
        self._netloc = urlsplit(url).netloc
        self._local = threading.local()

    def post(
        self, path: str, body: bytes, *, content_type: str = "application/json", prefer: str = ""
    ) -> tuple[int, bytes]:
        """Status and body."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._netloc, timeout=60)
            self._local.connection = connection
        elif time.monotonic() - self._local.used_at > _IDLE_SECONDS:
            connection.close()  # the next request opens it again
        headers = {"Content-Type": content_type} | ({"Prefer": prefer} if prefer else {})
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        status, answer = response.status, response.read()
        self._local.used_at = time.monotonic()
        return status, answer

    def submit_and_wait(self, body: bytes) -> None:
        """A job through `Prefer: wait`; raises unless its result came."""
        status, answer = self.post("/v1/jobs", body, prefer="wait=10")
        if status != 200 or orjson.loads(answer)["state"] != "succeeded":
            raise RuntimeError(f"{status}: {answer[:200]!r}")


def poisson(
    call: Callable[[], None], pool: ThreadPoolExecutor, per_second: float, seconds: float, seed: int
) -> list[float]:
    """Latencies in ms from each call's due time, so that a stall counts for all it delays."""
    chance = random.Random(seed)
    latencies: list[float] = []

    def timed(due: float) -> None:
        call()
        latencies.append((time.perf_counter() - due) * 1000)

    began = time.perf_counter()
    due, futures = began, []
    while (due := due + chance.expovariate(per_second)) < began + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))
        futures.append(pool.submit(timed, due))
    for future in futures:
        future.result()
    return latencies


def warm_pool(call: Callable[[], None]) -> ThreadPoolExecutor:
    """A pool whose threads have all connected and called once."""
    pool = ThreadPoolExecutor(_THREADS)
    barrier = threading.Barrier(_THREADS)

    def first() -> None:
        barrier.wait()
        call()

    for future in [pool.submit(first) for _ in range(_THREADS)]:
        future.result()
    return pool

"""A TCP proxy that misbehaves on request: resets after so many bytes, or swallows everything."""

from __future__ import annotations

import contextlib
import math
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit


class FaultyProxy:
    """Forwards to the server of a Redis URL; thread per direction."""

    def __init__(self, upstream_url: str, seed: int = 7) -> None:
        parts = urlsplit(upstream_url)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        login = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))
        self.resets = 0
        self.resets_left = 0
        self.largest_offset = 20_000
        self.last_words = b""
        """Once a client has sent these, nothing passes any more, and `silenced` is set."""
        self.last_words_arrive = False
        self.idle_seconds = math.inf
        """A connection that was silent for longer is forgotten: nothing passes, nobody is told."""
        self.forgotten = 0
        self.silenced = threading.Event()
        self._blackhole = threading.Event()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def blackhole(self) -> Iterator[None]:
        """Meanwhile nothing passes in either direction, and nobody is told."""
        self._blackhole.set()
        try:
            yield
        finally:
            self._blackhole.clear()

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._upstream, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            heard = [time.monotonic()]
            for source, target in ((client, server), (server, client)):
                threading.Thread(
                    target=self._pump, args=(source, target, heard), daemon=True
                ).start()

    def _is_forgotten(self, heard: list[float]) -> bool:
        """Whether something came too late on this connection, now or before."""
        now = time.monotonic()
        if now - heard[0] <= self.idle_seconds:
            heard[0] = now
            return False
        self.forgotten += heard[0] > 0
        heard[0] = -math.inf
        return True

    def _pump(self, source: socket.socket, target: socket.socket, heard: list[float]) -> None:
        budget = self._random.randrange(1, self.largest_offset)
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if self.last_words and self.last_words in chunk:
                    if self.last_words_arrive:
                        target.sendall(chunk)
                    self._blackhole.set()
                    self.silenced.set()
                if self._is_forgotten(heard) or self._blackhole.is_set():
                    continue  # swallowed: the stream is broken from here on
                if self.resets_left and len(chunk) >= budget:
                    target.sendall(chunk[:budget])
                    self._reset(source, target)
                    return
                budget -= len(chunk)
                if budget <= 0:
                    budget = self._random.randrange(1, self.largest_offset)
                target.sendall(chunk)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _reset(self, *ends: socket.socket) -> None:
        with self._lock:
            if not self.resets_left:
                return
            self.resets_left -= 1
            self.resets += 1
        for end in ends:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

"""Serves the application with uvicorn: uvloop, httptools, and the limits of connection.py.

A single process binds its port itself. Where several share a port, or where each is replaced
after a number of requests, `api.server.supervisor` binds the port and starts these processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable

import structlog
import uvicorn

from api.app import Front
from api.server.connection import Connection, Patience
from common.profiling.tracing import socket_of_api
from common.redis.ending import end_tasks
from common.settings import Settings

log = structlog.get_logger(__name__)

_SPARE_FILES = 256
"""Descriptors reserved for other uses than clients: Redis, logs, temporary files, the listener."""
_SWEEP_SECONDS = 1.0
_M_MMAP_THRESHOLD = -3
"""glibc's M_MMAP_THRESHOLD."""
_HEADERS = [("x-content-type-options", "nosniff")]
"""Sent with every response, also the parser's 400; each costs 0.7 us."""


class Server(uvicorn.Server):
    """uvicorn's server; it sweeps its connections, and releases waiters before it drains."""

    def __init__(
        self,
        config: uvicorn.Config,
        front: Front,
        on_drain: Callable[[], None] | None = None,
        is_told_to_end: Callable[[], bool] = lambda: False,
    ) -> None:
        """is_told_to_end tells of a signal that came before this server listened to signals."""
        super().__init__(config)
        self._is_told_to_end = is_told_to_end
        self._front = front
        self._on_drain = on_drain
        self._sweeping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        await super().startup(sockets)
        if self._is_told_to_end():
            self.handle_exit(signal.SIGTERM, None)
        self._sweeping = asyncio.create_task(self._sweep(), name="connection-sweep")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, release waiting requests, and complete the others."""
        if self._on_drain:
            self._on_drain()
        self._front.draining.set()
        await super().shutdown(sockets)
        await end_tasks(self._sweeping)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.sweep(now)


def serve(
    settings: Settings,
    redis_url: str,
    sockets: list[socket.socket] | None = None,
    on_drain: Callable[[], None] | None = None,
    metrics: int | None = None,
    is_told_to_end: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until SIGTERM, or until the process has served its maximum number of requests.

    metrics is the descriptor of the socket to the parent that adds up the processes' metrics;
    is_told_to_end tells whether SIGTERM came before.
    """
    front = Front(settings, redis_url, metrics)
    _give_large_memory_back()
    gc.collect()
    gc.freeze()  # excludes imported objects from collections, which cost bulk 6 %
    gc.enable()
    local = socket_of_api(settings.state_dir, os.getpid())
    if settings.profiling:
        local.start()
    try:
        Server(_config(settings, front), front, on_drain, is_told_to_end).run(sockets)
    finally:
        local.stop()


def _config(settings: Settings, front: Front) -> uvicorn.Config:
    jitter = settings.max_requests_jitter
    patience = Patience.of(settings, _open_files_for(settings.max_connections))
    return uvicorn.Config(
        front.app,
        host=settings.host,
        port=settings.port,
        http=Connection.within(patience),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=_HEADERS,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=",".join(settings.trusted_proxies),
        backlog=settings.accept_backlog,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.drain_seconds,
        limit_max_requests=settings.max_requests or None,
        limit_max_requests_jitter=settings.max_requests // 10 if jitter is None else jitter,
    )


def _give_large_memory_back() -> None:
    """Have each buffer above 1 MB mapped by itself, and so returned as soon as it is freed.

    By default glibc raises the threshold at the first such free, and then keeps buffers of up to
    32 MB each.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)


def _open_files_for(connections: int) -> int:
    """How many connections this process can hold; raises its limit on open files if needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    possible = max(16, soft - _SPARE_FILES)
    if possible < connections:
        log.warning("connections_limited", possible=possible, wanted=connections, open_files=soft)
    return min(connections, possible)

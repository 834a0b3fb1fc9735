"""The connections of a client: those of this process and, with asyncio, of the running loop.

A connection that two processes use gives one of them the other's response, so a process that was
forked opens its own. Requests await their turn in front of httpx: its pool looks through all that
wait whenever one ends (1,000 submits at once: 100 s; by turns, 100 at a time: 7 s).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import httpx

from .errors import ClientError

Http = TypeVar("Http")
Turns = TypeVar("Turns")

__all__ = (
    "AsyncConnections",
    "AsyncPool",
    "Connections",
    "Pool",
    "certificates",
    "http_options",
    "limits_for",
)

_FORKED = (
    "this process was forked from the one that made the client, whose `http` cannot be used in "
    "both; make another Client here"
)
_FORKED_UNDER_WAY = (
    "this process was forked while a response was being read, which belongs to the other process; "
    "ask again here"
)
_CLOSED = "the client was closed"


def limits_for(max_connections: int) -> httpx.Limits:
    """httpx's limits: none on what is open, as the turns are in front of it and streams of events,
    which last, take none.
    """
    if max_connections < 1:
        raise ValueError("`max_connections` must be at least 1")
    return httpx.Limits(max_connections=None, max_keepalive_connections=max_connections)


def http_options(
    url: str, timeout: float, headers: dict[str, str], limits: httpx.Limits
) -> dict[str, Any]:
    """What either of httpx's clients is made with."""
    return {
        "base_url": url,
        "timeout": timeout,
        "headers": headers,
        "limits": limits,
        "verify": certificates(),
    }


def certificates() -> ssl.SSLContext:
    """The authorities that are trusted, read once a process: 25 ms of CPU, which each client would
    cost otherwise.
    """
    return _certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=2)
def _certificates(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()


def check_process(pid: int) -> None:
    """Raise ClientError in another process than this one: a response is being read there."""
    if os.getpid() != pid:
        raise ClientError(_FORKED_UNDER_WAY)


@dataclass(frozen=True, slots=True)
class _Open(Generic[Http, Turns]):
    http: Http
    turns: Turns
    pid: int = field(default_factory=os.getpid)

    def turn(self, lasting: bool = False) -> Turns | contextlib.nullcontext[None]:
        """Holds one of the turns; a request that lasts as long as its caller likes takes none."""
        return contextlib.nullcontext() if lasting else self.turns


class Pool(_Open[httpx.Client, threading.BoundedSemaphore]):
    """What one process has open."""

    __slots__ = ()


class AsyncPool(_Open[httpx.AsyncClient, asyncio.Semaphore]):
    """What one event loop has open."""

    __slots__ = ()


class Connections:
    """The pool of whichever process asks. Several threads may."""

    def __init__(
        self,
        open_http: Callable[[], httpx.Client],
        given: httpx.Client | None,
        max_connections: int,
    ) -> None:
        self._open = open_http
        self._given = given
        self._max = max_connections
        self._closed = False
        self._pool = self._new(given or open_http())

    def pool(self) -> Pool:
        """This process's pool; raises ClientError where it cannot have one."""
        if self._closed:
            raise ClientError(_CLOSED)
        if self._pool.pid != os.getpid():
            if self._given is not None:
                raise ClientError(_FORKED)
            # The other is dropped and not closed: a thread of the parent may have held its lock.
            self._pool = self._new(self._open())
        return self._pool

    def close(self) -> None:
        """Close what this process has opened."""
        self._closed = True
        if self._pool.pid == os.getpid():
            self._pool.http.close()

    def _new(self, http: httpx.Client) -> Pool:
        return Pool(http, threading.BoundedSemaphore(self._max))


class AsyncConnections:
    """The pool of whichever event loop asks."""

    def __init__(
        self,
        open_http: Callable[[], httpx.AsyncClient],
        given: httpx.AsyncClient | None,
        max_connections: int,
    ) -> None:
        self._open = open_http
        self._given = given
        self._max = max_connections
        self._closed = False
        self._pid = os.getpid()
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPool] = WeakKeyDictionary()

    def pool(self) -> AsyncPool:
        """The running loop's pool; raises ClientError where it cannot have one."""
        if self._closed:
            raise ClientError(_CLOSED)
        if self._pid != os.getpid():
            if self._given is not None:
                raise ClientError(_FORKED)
            self._pid, self._pools = os.getpid(), WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = AsyncPool(self._given or self._open(), asyncio.Semaphore(self._max))
            self._pools[loop] = pool
        return pool

    async def close(self) -> None:
        """Close what this loop has opened; that of a loop that ended goes with it."""
        self._closed = True
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None and pool.pid == os.getpid():
            await pool.http.aclose()
        elif self._given is not None and self._pid == os.getpid():
            await self._given.aclose()

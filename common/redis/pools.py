"""Pools that trust no connection that was idle for long.

A NAT or a load balancer forgets a connection that was silent for some minutes, and tells nobody:
what is sent on it then is lost, and whoever sent it waits for a timeout of seconds. The last
connection that was used is used next, so the others of a pool may well be idle for an hour beside
one that is busy every second. A new connection costs a millisecond; so one that was idle for
longer than the settings say is replaced before it is used.
"""

from __future__ import annotations

import math
import time
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel


class _Stamped:
    """When each connection of a pool was given back, by the steady clock."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.idle_seconds = math.inf
        """After how long a connection is not trusted any more."""
        self._idle_since: dict[Any, float] = {}
        super().__init__(*args, **kwargs)

    def _is_stale(self, connection: Any) -> bool:
        return time.monotonic() - self._idle_since.get(connection, math.inf) > self.idle_seconds


class _Blocking(_Stamped):
    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        connection = super().get_connection(*args, **kwargs)  # type: ignore[misc]  # of the pool
        if self._is_stale(connection):
            try:
                connection.disconnect()
                connection.connect()
            except BaseException:
                self.release(connection)
                raise
        return connection

    def release(self, connection: Any) -> None:
        self._idle_since[connection] = time.monotonic()
        super().release(connection)  # type: ignore[misc]  # as above


class _Asyncio(_Stamped):
    async def ensure_connection(self, connection: Any) -> None:
        if self._is_stale(connection):
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)  # type: ignore[misc]  # as above

    async def release(self, connection: Any) -> None:
        self._idle_since[connection] = time.monotonic()
        await super().release(connection)  # type: ignore[misc]  # as above


class FreshPool(_Blocking, redis.ConnectionPool):
    """Of a blocking client."""


class FreshSentinelPool(_Blocking, redis.sentinel.SentinelConnectionPool):
    """The same, of the master that Sentinels name."""


class AsyncFreshPool(_Asyncio, redis.asyncio.ConnectionPool):
    """Of an asyncio client."""


class AsyncFreshSentinelPool(_Asyncio, redis.asyncio.sentinel.SentinelConnectionPool):
    """The same, of the master that Sentinels name."""

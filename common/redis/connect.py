"""Opens Redis connections, always with timeouts and never with hidden retries.

By default redis-py would repeat a command whose reply was lost. A repeated reserve leases a
second set of jobs, so retries are left to the callers, which know whether a command may be
repeated. RESP2 is used because the replies of the scripts and of client tracking then have one
form on every server.

`sentinel://host:port[;sentinel://host:port...]/db` queries Sentinels for the configured master,
at every new connection.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.settings import RedisSettings

SENTINEL_SCHEME = "sentinel://"


def cache_url_of(settings: RedisSettings, queue_url: str) -> str:
    """The URL of the result cache: a Redis of its own, or the queue's."""
    own = settings.cache_redis_url
    return own.get_secret_value() if own else queue_url


def connect(url: str, settings: RedisSettings) -> redis.Redis:
    """A thread-safe blocking client with its own pool; replies are bytes."""
    options = _options(settings) | {"retry": Retry(NoBackoff(), 0)}
    if not url.startswith(SENTINEL_SCHEME):
        return redis.Redis.from_url(url, **options)
    nodes, login = parse_sentinel_url(url)
    sentinel = redis.sentinel.Sentinel(
        nodes, sentinel_kwargs=_timeouts(settings), **options | login
    )
    client: redis.Redis = sentinel.master_for(settings.sentinel_master)
    return client


def connect_async(
    url: str, settings: RedisSettings, *, time_commands: bool = True
) -> redis.asyncio.Redis:
    """An asyncio client with its own pool; replies are bytes.

    Without time_commands only connecting has a timeout: redis-py creates a task to time each
    command, which costs more than the command, so callers that send thousands apply their own.
    """
    untimed = {} if time_commands else {"socket_timeout": None}
    options = _options(settings) | untimed | {"retry": AsyncRetry(NoBackoff(), 0)}
    if not url.startswith(SENTINEL_SCHEME):
        return redis.asyncio.Redis.from_url(url, **options)
    nodes, login = parse_sentinel_url(url)
    sentinel = redis.asyncio.sentinel.Sentinel(
        nodes, sentinel_kwargs=_timeouts(settings), **options | login
    )
    client: redis.asyncio.Redis = sentinel.master_for(settings.sentinel_master)
    return client


def database_of(client: redis.Redis | redis.asyncio.Redis) -> int:
    """The number of the database that it talks to."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def parse_sentinel_url(url: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The Sentinels' addresses, and the login and database of the master."""
    nodes: list[tuple[str, int]] = []
    login: dict[str, Any] = {}
    for part in url.split(";"):
        parsed = urlsplit(part)
        nodes.append((parsed.hostname or "localhost", parsed.port or 26379))
        if parsed.password:
            login["password"] = parsed.password
        if parsed.username:
            login["username"] = parsed.username
        if database := parsed.path.strip("/"):
            login["db"] = int(database)
    return nodes, login


def _timeouts(settings: RedisSettings) -> dict[str, Any]:
    return {
        "socket_timeout": settings.socket_timeout_seconds,
        "socket_connect_timeout": settings.socket_timeout_seconds,
    }


def _options(settings: RedisSettings) -> dict[str, Any]:
    return {"protocol": 2, "socket_keepalive": True, **_timeouts(settings)}

"""Opens Redis connections, always with timeouts and never with hidden retries.

By default redis-py would repeat a command whose reply was lost. A repeated reserve leases a
second set of jobs, so retries are left to the callers, which know whether a command may be
repeated. RESP2 is used because the replies of the scripts and of client tracking then have one
form on every server.

`sentinel://host:port[;sentinel://host:port...]/db` queries Sentinels for the configured master,
at every new connection.
"""

from __future__ import annotations

import math
import socket
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.net.redis_address import RedisAddress
from common.redis.pools import (
    AsyncFreshPool,
    AsyncFreshSentinelPool,
    FreshPool,
    FreshSentinelPool,
)
from common.settings import RedisSettings


def cache_url_of(settings: RedisSettings, queue_url: str) -> str:
    """The URL of the result cache: a Redis of its own, or the queue's."""
    own = settings.cache_redis_url
    return own.get_secret_value() if own else queue_url


def connect(url: str, settings: RedisSettings) -> redis.Redis:
    """A thread-safe blocking client with its own pool; replies are bytes."""
    address = RedisAddress.parse(url)
    options = _options(address, settings) | {"retry": Retry(NoBackoff(), 0)}
    if address.kind != "sentinel":
        pool = FreshPool.from_url(address.url, **options)
        pool.idle_seconds = settings.redis_keepalive_seconds
        return redis.Redis.from_pool(pool)
    sentinel = redis.sentinel.Sentinel(
        list(address.nodes),
        sentinel_kwargs=sentinel_options(address, settings),
        **options | address.login | master_tls(address),
    )
    client: redis.Redis = sentinel.master_for(
        settings.sentinel_master, connection_pool_class=FreshSentinelPool
    )
    client.connection_pool.idle_seconds = settings.redis_keepalive_seconds  # type: ignore[attr-defined]  # ours has it
    return client


def connect_async(
    url: str, settings: RedisSettings, *, time_commands: bool = True
) -> redis.asyncio.Redis:
    """An asyncio client with its own pool; replies are bytes.

    Without time_commands only connecting has a timeout: redis-py creates a task to time each
    command, which costs more than the command, so callers that send thousands apply their own.
    """
    address = RedisAddress.parse(url)
    untimed = {} if time_commands else {"socket_timeout": None}
    options = _options(address, settings) | untimed | {"retry": AsyncRetry(NoBackoff(), 0)}
    if address.kind != "sentinel":
        pool = AsyncFreshPool.from_url(address.url, **options)
        pool.idle_seconds = settings.redis_keepalive_seconds
        return redis.asyncio.Redis.from_pool(pool)
    sentinel = redis.asyncio.sentinel.Sentinel(
        list(address.nodes),
        sentinel_kwargs=sentinel_options(address, settings),
        **options | address.login | master_tls(address),
    )
    client: redis.asyncio.Redis = sentinel.master_for(
        settings.sentinel_master, connection_pool_class=AsyncFreshSentinelPool
    )
    client.connection_pool.idle_seconds = settings.redis_keepalive_seconds  # type: ignore[attr-defined]  # ours has it
    return client


def sentinel_options(address: RedisAddress, settings: RedisSettings) -> dict[str, Any]:
    """How the Sentinels themselves are reached, as redis-py takes it by name."""
    secret = settings.sentinel_password
    login = {
        "username": settings.sentinel_username,
        "password": secret.get_secret_value() if secret else None,
    }
    tls = _tls(address) if settings.sentinel_tls else {}
    return _timeouts(settings) | {name: value for name, value in login.items() if value} | tls


def master_tls(address: RedisAddress) -> dict[str, Any]:
    """TLS to the master that Sentinels name, as redis-py takes it by name; nothing without."""
    return _tls(address) if address.tls else {}


def _tls(address: RedisAddress) -> dict[str, Any]:
    options: dict[str, Any] = {"ssl": True, "ssl_cert_reqs": "required", **address.tls}
    if named := options.pop("ssl_check_hostname", None):
        options["ssl_check_hostname"] = named.lower() == "true"
    return options


def database_of(client: redis.Redis | redis.asyncio.Redis) -> int:
    """The number of the database that it talks to."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def _timeouts(settings: RedisSettings) -> dict[str, Any]:
    return {
        "socket_timeout": settings.socket_timeout_seconds,
        "socket_connect_timeout": settings.socket_timeout_seconds,
    }


def _options(address: RedisAddress, settings: RedisSettings) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if address.kind != "unix":
        kept = {"socket_keepalive": True, "socket_keepalive_options": probes(settings)}
    return {"protocol": 2, **kept, **_timeouts(settings)}


def probes(settings: RedisSettings) -> dict[int, int]:
    """How the system asks a silent peer for a sign of life, as far as it lets us say so; by itself
    it does after two hours.
    """
    wanted = {
        "TCP_KEEPIDLE": math.ceil(settings.redis_keepalive_seconds),
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}

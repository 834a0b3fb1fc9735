"""Open Redis connections, always with timeouts and never with hidden retries.

redis-py would by default repeat a command whose answer got lost. A repeated
reserve leases a second set of jobs, so retrying is left to those who know
what they sent. RESP2 is asked for because the replies of the scripts and of
client tracking then have one shape on every server.
"""

from __future__ import annotations

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.settings import Settings


def connect(url: str, settings: Settings) -> redis.Redis:
    """A thread-safe blocking client with its own pool; replies are bytes."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=settings.socket_timeout_seconds,
        socket_connect_timeout=settings.socket_timeout_seconds,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )


def connect_async(url: str, settings: Settings) -> redis.asyncio.Redis:
    """An asyncio client with its own pool; replies are bytes."""
    return redis.asyncio.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=settings.socket_timeout_seconds,
        socket_connect_timeout=settings.socket_timeout_seconds,
        socket_keepalive=True,
        retry=AsyncRetry(NoBackoff(), 0),
    )

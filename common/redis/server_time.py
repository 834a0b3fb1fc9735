"""What time it is by the clock of Redis, which decides when something has expired.

The clocks of several machines differ, and one that is set forward by a month for a minute would
remove every file meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio


async def server_ms(client: redis.asyncio.Redis) -> int:
    """Unix milliseconds; may raise RedisError."""
    now: Any = await client.time()
    return as_ms(now)


def as_ms(reply: Sequence[int]) -> int:
    """The reply to TIME as Unix milliseconds."""
    seconds, microseconds = reply
    return int(seconds) * 1000 + int(microseconds) // 1000

"""Many commands in one round trip of an asyncio client, packed by hiredis.

redis-py's pipeline packs each command in Python, which takes several times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis.exceptions import ResponseError

Command = Sequence[str | bytes | int | float]


async def run_packed(client: redis.asyncio.Redis, commands: Sequence[Command]) -> list[Any]:
    """The replies, in order; raises what redis-py raises, where several failed the first."""
    if not commands:
        return []
    sent = b"".join(hiredis.pack_command(tuple(one)) for one in commands)  # type: ignore[arg-type]
    pool = client.connection_pool
    connection = await pool.get_connection()
    replies: list[Any] = []
    failed: ResponseError | None = None
    try:
        await connection.send_packed_command([sent])
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as exc:
                failed = failed or exc
    except BaseException:
        await connection.disconnect(nowait=True)  # replies that nobody has read must not stay on it
        raise
    finally:
        await pool.release(connection)
    if failed is not None:
        raise failed
    return replies

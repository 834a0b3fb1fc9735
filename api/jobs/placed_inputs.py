"""Writes large inputs to Redis before their jobs are published.

In the script that publishes a job, 32 MB of input would hold the server up for 100 ms; a plain SET
takes over the bytes as they arrived. An input expires until the script makes it stay, so one whose
job was never published leaves by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from common.jobs.enqueue import PLACED
from common.jobs.job import Job
from common.redis.keys import blob_key
from common.redis.scripts import set_large

_LARGE_BYTES = 256 * 1024
_EXPIRE_SECONDS = 300


def concerns(job: Job) -> bool:
    """Whether the job's input is written before it."""
    return job.blob is not None and len(job.blob) > _LARGE_BYTES


async def place(client: redis.asyncio.Redis, jobs: Sequence[Job]) -> list[Job]:
    """Write the large inputs of these; returns the jobs to publish. May raise RedisError."""
    return [await _place(client, job) if concerns(job) else job for job in jobs]


async def _place(client: redis.asyncio.Redis, job: Job) -> Job:
    # Not again where the job is published already: its input would expire.
    options = ("NX", "EX", str(_EXPIRE_SECONDS))
    await set_large(client, blob_key(job.id), job.blob or b"", options)
    return replace(job, blob=PLACED)


async def take_back(client: redis.asyncio.Redis, job: Job) -> None:
    """Delete the input of a job that was refused, unless the job was published meanwhile."""
    key: Any = blob_key(job.id)
    with suppress(RedisError):
        if await client.ttl(key) >= 0:
            await client.unlink(key)

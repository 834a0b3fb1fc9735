"""`Idempotency-Key`: a submit that may be repeated without queueing the job twice.

The key is claimed for a job id before the job is published under that id, and the enqueue
script accepts an id only once. So nothing has to be undone: after a crash between the two,
a repeated request publishes the job; after a crash behind both, it finds the job; and
concurrent requests, on any replica, all publish or find the same id.

A claim must not outlive the record of its job, or a repeated request would run the job
again; a settled record is kept for `result_ttl_seconds`, the fleet's or the model's own, so
these bound the claim's TTL as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import redis.asyncio

from api.http.request_errors import IdempotencyKeyReused
from common.jobs.script_calls import ClaimCall
from common.redis.keys import idempotency_key
from common.redis.scripts import AsyncScripts


@dataclass(frozen=True, slots=True)
class Claim:
    """The job that a key is claimed for, and whether the claim precedes this request."""

    job_id: str
    replayed: bool


class Claims:
    """Claims of idempotency keys, in Redis."""

    def __init__(
        self, client: redis.asyncio.Redis, ttl_seconds: int, result_ttl_seconds: int
    ) -> None:
        self._scripts = AsyncScripts(client)
        self._ttl = min(ttl_seconds, result_ttl_seconds)

    async def claim(
        self, tenant: str, key: str, request_digest: str, job_id: str, lane_ttl: int | None
    ) -> Claim:
        """Claim the key for this job; raises IdempotencyKeyReused if another body has claimed it.

        lane_ttl is the lane's result TTL in seconds; None is the fleet's.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        ttl = min(self._ttl, lane_ttl or self._ttl)
        held: bytes = await self._scripts.run(
            "claim_idempotency_key",
            (idempotency_key(tenant, name),),
            ClaimCall(f"{request_digest} {job_id}", ttl),
        )
        held_for, _, held_id = held.decode().partition(" ")
        if held_for != request_digest:
            raise IdempotencyKeyReused(
                "this Idempotency-Key was sent before with another body; "
                "take a fresh key for a new job"
            )
        return Claim(held_id, held_id != job_id)

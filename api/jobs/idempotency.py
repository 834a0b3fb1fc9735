"""`Idempotency-Key`: a submit that may be repeated without queueing twice.

The key is claimed for a job id before the job is published under that id,
and the script that publishes takes an id only once. So nothing has to be
undone anywhere: a crash between the two leaves a claim whose repetition
publishes, a crash after them one whose repetition finds the job, and of many
at the same time, on any replica, all publish the one id or find it.

A claim must not outlive the record of its job, or its repetition would run
the job again; a settled record is kept for `result_ttl_seconds`, the fleet's or
the model's own, so those bound the claim's life as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import redis.asyncio
from fastapi import Request
from starlette.types import Message

from api.http.bodies import read_body
from api.http.problems import Problem
from common.jobs.script_calls import ClaimCall
from common.redis.keys import idempotency_key
from common.redis.scripts import AsyncScripts
from common.settings import Settings

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Claim:
    """Which job a key stands for, and whether it did so before this request."""

    job_id: str
    replayed: bool


class Claims:
    """The idempotency keys in use, in Redis."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._scripts = AsyncScripts(client)
        self._ttl = min(settings.idempotency_ttl_seconds, settings.result_ttl_seconds)

    async def claim(
        self, tenant: str, key: str, fingerprint: str, job_id: str, lane_ttl: int | None
    ) -> Claim:
        """Claim the key for this job; raises a 422 problem where it stands for another body.

        lane_ttl is how many seconds its lane keeps results; None is as long as the fleet does.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        ttl = min(self._ttl, lane_ttl or self._ttl)
        held: bytes = await self._scripts.run(
            "claim_idempotency_key",
            (idempotency_key(tenant, name),),
            ClaimCall(f"{fingerprint} {job_id}", ttl),
        )
        held_for, _, held_id = held.decode().partition(" ")
        if held_for != fingerprint:
            raise Problem(
                422,
                "idempotency_key_reused",
                "this Idempotency-Key was sent before with another body; "
                "take a fresh key for a new job",
            )
        return Claim(held_id, held_id != job_id)


def key_of(header: str) -> str:
    """The key, with or without the quotation marks of the draft; raises a 400 problem."""
    key = header.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 0 < len(key) <= _LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise Problem(
            400,
            "invalid_idempotency_key",
            f"send 1 to {_LONGEST_KEY} printable ASCII characters as {HEADER}, a UUID say",
        )
    return key


async def read_ahead(request: Request, max_bytes: int) -> tuple[Request, str]:
    """The same request with its body in memory, and the fingerprint of what it asks for.

    A form's boundary is left out of it: clients draw a new one for each attempt.
    """
    body = await read_body(request, max_bytes)
    content_type = request.headers.get("content-type", "")
    media_type, _, parameters = content_type.partition(";")
    boundary = parameters.partition("boundary=")[2].partition(";")[0].strip().strip('"').encode()
    digest = hashlib.sha256(media_type.strip().lower().encode() + b"\n")
    digest.update(request.scope.get("query_string", b"") + b"\n")
    digest.update(body.replace(boundary, b"") if boundary else body)

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, replay), digest.hexdigest()

"""Enqueues many jobs at once: the arguments of the enqueue script, and its reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson
from redis import Redis

from common.errors import LaneFull, QuotaExceeded, RateLimited, Refused
from common.jobs.job import Job
from common.jobs.message import build_message
from common.jobs.quota import Limits, Quota
from common.redis.keys import BANDS, band_key, band_of, flight_name
from common.redis.scripts import Scripts
from common.settings import DEFAULT_LIST_MAX, DEFAULT_WINDOW

PLACED = b"\x00placed"
"""Instead of an input that was written before the call, under a key that expires."""
_TOO_FAST, _TOO_MANY = -2, -3
"""Replies of the enqueue script for a job that exceeds its tenant's limits."""


class EnqueueCall(NamedTuple):
    """The first arguments of the enqueue script; those of its tenants and its jobs follow."""

    max_backlog: int
    window: int
    list_max: int
    words: int
    """Number of arguments per job: all, or only those that some job needs."""
    tenants: int


class EnqueueTenant(NamedTuple):
    """One tenant of the call, and its limits."""

    name: str
    jobs_per_second: float
    burst: int
    max_in_flight: int


class EnqueuedJob(NamedTuple):
    """One job of the call. An empty string means that there is no value."""

    lane: str
    band_key: str
    job_id: str
    message: bytes
    expires_ms: int | str = ""
    blob: bytes = b""
    tenant: str = ""
    flight: str = ""
    """The single-flight it may join; the next three fields are used only with it."""
    band: int | str = ""
    deadline_ms: int | str = ""
    max_age_seconds: int | str = ""
    labels: str = ""
    """As `labels_text` writes them."""
    next: bytes = b""
    """Who is told of its end, as JSON (next_of)."""


_LIMITED = EnqueuedJob._fields.index("expires_ms")
_SHARED = EnqueuedJob._fields.index("flight")
_LABELED = EnqueuedJob._fields.index("labels")
_TOLD = EnqueuedJob._fields.index("next")
"""Numbers of arguments sent for jobs without the later fields: an argument costs Redis about
0.1 us."""


def _width(jobs: Sequence[Job]) -> int:
    """Number of arguments that must be sent for each of these jobs."""
    width = _LIMITED
    for job in jobs:  # one loop: four of `any` took as long as the rest of a small call
        if job.webhook:
            return len(EnqueuedJob._fields)
        if job.labels:
            width = _TOLD
        elif job.cache:
            width = max(width, _LABELED)
        elif job.tenant or job.blob or job.expires_ms is not None:
            width = max(width, _SHARED)
    return width


def _limits_words(job: Job) -> tuple[int | str, bytes, str]:
    """The fields of EnqueuedJob from expires_ms on; a plain tuple costs a fifth of a named one."""
    expires_ms = job.expires_ms
    return "" if expires_ms is None else expires_ms, job.blob or b"", job.tenant


def _sharing_words(job: Job) -> tuple[str, int | str, int | str, int | str]:
    """The fields of EnqueuedJob from flight on."""
    ticket = job.cache
    if ticket is None or not ticket.look:
        return "", "", "", ""
    band, age = BANDS.index(band_of(job.priority)) + 1, ticket.max_age_seconds
    flight = flight_name(job.model, ticket.digest)
    return flight, band, job.deadline_ms or 0, "" if age is None else age


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as the index has them: `key=value`, sorted, with commas between."""
    return ",".join(f"{name}={labels[name]}" for name in sorted(labels))


def enqueue_args(
    jobs: Sequence[Job],
    max_backlog: int,
    window: int = DEFAULT_WINDOW,
    list_max: int = DEFAULT_LIST_MAX,
) -> list[str | bytes | int | float]:
    """The arguments of the enqueue script for these jobs."""
    tenants = limits_of(jobs)
    words = _width(jobs)
    args: list[str | bytes | int | float] = [
        *EnqueueCall(max_backlog, window, list_max, words, len(tenants))
    ]
    for tenant, limits in tenants.items():
        args += EnqueueTenant(tenant, limits.jobs_per_second, limits.burst, limits.max_in_flight)
    for job in jobs:
        args += (job.model, band_key(job.model, job.priority), job.id, build_message(job))
        if words > _LIMITED:
            args += _limits_words(job)
        if words > _SHARED:
            args += _sharing_words(job)
        if words > _LABELED:
            args.append(labels_text(job.labels) if job.labels else "")
        if words > _TOLD:
            args.append(next_of(job.webhook))
    return args


def next_of(webhook: str) -> bytes:
    """What a job with this webhook leads to, as it is kept; empty for none.

    The line break says that it is all: what Celery's canvas leads to is kept without one.
    """
    return b'{"webhook":%b}\n' % orjson.dumps(webhook) if webhook else b""


_EVENT_BYTES, _EVENT_TAIL = 32_768, 2_048
"""As in lua/include/outbox.lua."""


def ending_fields(job_id: str, webhook: str, meta: bytes) -> list[str | bytes]:
    """The outbox's entry of a job that ended without a script: with the result, or its end alone
    where it is large.
    """
    large = len(meta) > _EVENT_BYTES
    name, kept = ("tail", meta[-_EVENT_TAIL:]) if large else ("meta", meta)
    return ["id", job_id, "next", next_of(webhook), name, kept]


def limits_of(jobs: Iterable[Job]) -> dict[str, Limits]:
    """The tenants of these jobs, with their limits."""
    return {job.tenant: job.limits for job in jobs if job.tenant}


def positions(jobs: Sequence[Job], reply: Sequence[int]) -> list[int | Refused]:
    """Parse the enqueue script's reply: per job the backlog ahead of it, or the refusal."""
    return [
        position if position >= 0 else _refusal(job, position)
        for job, position in zip(jobs, reply, strict=False)
    ]


def quotas(jobs: Sequence[Job], reply: Sequence[int]) -> dict[str, Quota]:
    """Parse the quotas in the same reply, by tenant."""
    words = iter(reply[len(jobs) :])
    return {
        tenant: Quota(limits, remaining, reset_ms)
        for (tenant, limits), remaining, reset_ms in zip(
            limits_of(jobs).items(), words, words, strict=True
        )
    }


def _refusal(job: Job, code: int) -> Refused:
    if code in (_TOO_FAST, _TOO_MANY):
        return refusal_by(code, job.limits)
    return LaneFull(f"lane {job.model!r} is full; try again in a few seconds")


def refusal_by(code: int, limits: Limits) -> Refused:
    """The error for the code of a tenant's limit."""
    if code == _TOO_FAST:
        text = f"this tenant may send {limits.jobs_per_second:g} jobs a second"
        return RateLimited(f"{text}, {limits.burst} at once; slow down")
    text = f"this tenant may have {limits.max_in_flight} jobs in flight"
    return QuotaExceeded(f"{text}, and has; wait until some are done")


def publish_many(
    client: Redis,
    jobs: Sequence[Job],
    *,
    max_backlog: int = 1_000_000,
    chunk: int = 500,
    window: int = DEFAULT_WINDOW,
) -> list[int | Refused]:
    """Publish jobs with their records, `chunk` per round trip.

    Returns, per job, the backlog ahead of it, or a Refused where it was not accepted. Raises
    redis.exceptions.RedisError; jobs of earlier chunks are published then, those of the failing
    chunk either all or not at all.
    """
    scripts = Scripts(client)
    out: list[int | Refused] = []
    for first in range(0, len(jobs), chunk):
        part = jobs[first : first + chunk]
        out += positions(part, scripts.run("enqueue", (), enqueue_args(part, max_backlog, window)))
    return out

"""Many jobs at once into their lanes: the arguments of the enqueue script, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from redis import Redis

from common.errors import LaneFull, QuotaExceeded, RateLimited, Refused
from common.jobs.job import Job
from common.jobs.message import build_message
from common.jobs.quota import Limits, Quota
from common.redis.keys import BANDS, band_key, band_of, flight_name
from common.redis.scripts import Scripts
from common.settings import DEFAULT_LIST_MAX, DEFAULT_WINDOW

_TOO_FAST, _TOO_MANY = -2, -3
"""What the enqueue script answers for a job that its tenant's limits refuse."""


def _seat(job: Job) -> str:
    """How the job takes part in an identical one's run; empty where it does not."""
    ticket = job.cache
    if ticket is None or not ticket.look:
        return ""
    band = BANDS.index(band_of(job.priority)) + 1
    seat = f"{band} {job.deadline_ms or 0} {flight_name(job.model, ticket.digest)}"
    return seat if ticket.max_age_seconds is None else f"{seat} {ticket.max_age_seconds}"


def enqueue_args(
    jobs: Sequence[Job],
    max_backlog: int,
    window: int = DEFAULT_WINDOW,
    list_max: int = DEFAULT_LIST_MAX,
) -> list[str | bytes | int | float]:
    """The arguments of the enqueue script for these jobs."""
    tenants = limits_of(jobs)
    args: list[str | bytes | int | float] = [max_backlog, window, list_max, len(tenants)]
    for tenant, limits in tenants.items():
        args += (tenant, limits.jobs_per_second, limits.burst, limits.max_in_flight)
    for job in jobs:
        expires_ms = job.expires_ms
        args += (
            job.model,
            band_key(job.model, job.priority),
            job.id,
            build_message(job),
            "" if expires_ms is None else expires_ms,
            job.blob or b"",
            "" if job.cache is None else _seat(job),
            job.tenant,
        )
    return args


def limits_of(jobs: Iterable[Job]) -> dict[str, Limits]:
    """Whose jobs these are, and what each of them may do."""
    return {job.tenant: job.limits for job in jobs if job.tenant}


def positions(jobs: Sequence[Job], reply: Sequence[int]) -> list[int | Refused]:
    """What the enqueue script answered: per job the backlog ahead of it, or why it is refused."""
    return [
        position if position >= 0 else _refusal(job, position)
        for job, position in zip(jobs, reply, strict=False)
    ]


def quotas(jobs: Sequence[Job], reply: Sequence[int]) -> dict[str, Quota]:
    """What the same answer says of the tenants, by name."""
    words = iter(reply[len(jobs) :])
    return {
        tenant: Quota(limits, remaining, reset_ms)
        for (tenant, limits), remaining, reset_ms in zip(
            limits_of(jobs).items(), words, words, strict=True
        )
    }


def _refusal(job: Job, code: int) -> Refused:
    limits = job.limits
    if code == _TOO_FAST:
        text = f"this tenant may send {limits.jobs_per_second:g} jobs a second"
        return RateLimited(f"{text}, {limits.burst} at once; slow down")
    if code == _TOO_MANY:
        text = f"this tenant may have {limits.max_in_flight} jobs in flight"
        return QuotaExceeded(f"{text}, and has; wait until some are done")
    return LaneFull(f"lane {job.model!r} is full; try again in a few seconds")


def publish_many(
    client: Redis,
    jobs: Sequence[Job],
    *,
    max_backlog: int = 1_000_000,
    chunk: int = 500,
    window: int = DEFAULT_WINDOW,
) -> list[int | Refused]:
    """Publish jobs with their records, `chunk` per round trip.

    Returns, per job, the backlog ahead of it, or a Refused that says it was
    not taken. Raises redis.exceptions.RedisError; jobs of earlier chunks are
    published then, those of the failing chunk either all or not at all.
    """
    scripts = Scripts(client)
    out: list[int | Refused] = []
    for first in range(0, len(jobs), chunk):
        part = jobs[first : first + chunk]
        out += positions(part, scripts.run("enqueue", (), enqueue_args(part, max_backlog, window)))
    return out

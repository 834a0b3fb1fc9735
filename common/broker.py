"""The Celery side of the contract: the app, the message format, publishing.

Messages are Celery protocol 2, JSON. They are built here by hand rather than
by Celery's producer because a held producer spends about 500 us on one; the
templates below cost about 5. The headers come first and the body is a plain
string, so that the scripts find a job's id without parsing the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from celery import Celery
from redis import Redis

from common.errors import LaneFull, QuotaExceeded, RateLimited, Refused
from common.jobs.job import Job, Limits, Quota
from common.redis.embedded_server import resolve_redis_url
from common.redis.keys import BANDS, band_key, band_of, flight_name
from common.redis.scripts import Scripts
from common.settings import DEFAULT_LIST_MAX, DEFAULT_WINDOW, Settings, load_settings

TASK_NAME = "infer"
_TOO_FAST, _TOO_MANY = -2, -3
"""What the enqueue script answers for a job that its tenant's limits refuse."""


def create_app(redis_url: str, settings: Settings) -> Celery:
    """The Celery application that workers, Flower and `celery inspect` share."""
    app = Celery("lanefleet", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_expires=settings.result_ttl_seconds,
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,  # a demoted master raises a channel error
        broker_connection_max_retries=None,
        broker_transport_options={
            "master_name": settings.sentinel_master,
            "socket_timeout": settings.socket_timeout_seconds,
            "socket_connect_timeout": settings.socket_timeout_seconds,
            "socket_keepalive": True,
            "queue_order_strategy": "priority",
        },
        result_backend_transport_options={"master_name": settings.sentinel_master},
        redis_socket_timeout=settings.socket_timeout_seconds,
        redis_socket_connect_timeout=settings.socket_timeout_seconds,
        redis_socket_keepalive=True,
        worker_soft_shutdown_timeout=settings.soft_shutdown_seconds,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        task_default_queue="lanefleet.unused",
    )
    app.task(name=TASK_NAME, shared=False, acks_late=True)(_infer)
    return app


def _infer(**_kwargs: Any) -> None:
    """Named so that clients and Flower know it; lanes run it, never Celery's pool."""
    raise RuntimeError("`infer` is run by Lanefleet's lanes, not by a Celery pool")


def __getattr__(name: str) -> Any:
    """Make `celery -A common.broker` work without reading the environment at import."""
    if name == "app":
        settings = load_settings()
        return create_app(resolve_redis_url(settings), settings)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@lru_cache(maxsize=1024)
def _template(lane: str, priority: int) -> tuple[bytes, bytes, bytes, bytes]:
    """The constant parts of a message of this lane: around id, id, limits, id and body.

    Only what the protocol requires: every header is copied and read many times on its way.
    """
    head = b'{"headers":{"lang":"py","task":"infer","id":"'
    root = b'","parent_id":null,"group":null,"root_id":"'
    properties = (
        b'},"content-type":"application/json","content-encoding":"utf-8","properties":{'
        b'"delivery_mode":2,"delivery_info":{"exchange":"","routing_key":'
        + orjson.dumps(lane)
        + b'},"priority":'
        + str(priority).encode()
        + b',"delivery_tag":"lf","correlation_id":"'
    )
    return head, root, properties, b'"},"body":'


def build_message(job: Job) -> bytes:
    """The job as a Celery protocol-2 message, ready to be pushed. About 1 us per KB."""
    head, root, properties, before_body = _template(job.model, job.priority)
    if job.input_url is None:
        call = orjson.dumps({"model": job.model, "input": job.input, "params": job.params})
    else:
        call = orjson.dumps({"model": job.model, "input_url": job.input_url, "params": job.params})
    job_id = job.id.encode()
    return b"".join(
        (
            head,
            job_id,
            root,
            job_id,
            _limits(job),
            _ticket(job),
            properties,
            job_id,
            before_body,
            orjson.dumps(f"[[],{call.decode()},{{}}]"),
            b"}",
        )
    )


def _limits(job: Job) -> bytes:
    """The headers that not every job has, after the root id's quotation mark.

    The scripts look for the tenant right there.
    """
    expires_ms = job.expires_ms
    owner = b'","tenant":"' + job.tenant.encode() if job.tenant else b""
    if expires_ms is None:
        return owner + _trace(job)
    expires = orjson.dumps(datetime.fromtimestamp(expires_ms / 1000, UTC))
    limits = owner + _trace(job) + b',"expires":' + expires
    if job.deadline_ms is not None:
        limits += b',"deadline_ms":%d' % job.deadline_ms
    return limits


def _ticket(job: Job) -> bytes:
    """The header that tells a worker where it may keep the result."""
    ticket = job.cache
    return b"" if ticket is None else f',"cache":"{ticket.digest} {ticket.weights}"'.encode()


def _seat(job: Job) -> str:
    """How the job takes part in an identical one's run; empty where it does not."""
    ticket = job.cache
    if ticket is None or not ticket.look:
        return ""
    band = BANDS.index(band_of(job.priority)) + 1
    seat = f"{band} {job.deadline_ms or 0} {flight_name(job.model, ticket.digest)}"
    return seat if ticket.max_age_seconds is None else f"{seat} {ticket.max_age_seconds}"


def _trace(job: Job) -> bytes:
    """The root id's quotation mark, and the header that OpenTelemetry's Celery side reads."""
    return b'","traceparent":' + orjson.dumps(job.traceparent) if job.traceparent else b'"'


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

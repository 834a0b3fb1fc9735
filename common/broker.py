"""The Celery side of the contract: the app, the message format, publishing.

Messages are Celery protocol 2, JSON. They are built here by hand rather than
by Celery's producer because a held producer spends about 500 us on one; the
templates below cost about 5. The headers come first and the body is a plain
string, so that the scripts find a job's id without parsing the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.errors import LaneFull
from common.job import Job
from common.keys import band_key
from common.redis_server import resolve_redis_url
from common.scripts import Args, AsyncScripts, Scripts
from common.settings import Settings, load_settings

if TYPE_CHECKING:
    import redis.asyncio

TASK_NAME = "infer"
_RETRY_PAUSES_SECONDS = (0.05, 0.2, 0.5, 1.0)
_JOBS_PER_TRIP = 500
_BLOB_BYTES_PER_TRIP = 8 * 1024 * 1024
_DEADLINE = b',"deadline_ms":'
_EMBED = b',{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'


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
def _template(lane: str, priority: int) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The constant parts of a message of this lane: around id, expires, id, id and body."""
    head = b'{"headers":{"lang":"py","task":"infer","id":"'
    expires = (
        b'","parent_id":null,"group":null,"argsrepr":"()","kwargsrepr":'
        + orjson.dumps(f"{{'model': '{lane}'}}")
        + b',"retries":0,"eta":null,"expires":'
    )
    root = (
        b',"timelimit":[null,null],"shadow":null,'
        b'"ignore_result":false,"origin":"lanefleet","root_id":"'
    )
    properties = (
        b'"},"content-type":"application/json","content-encoding":"utf-8","properties":{'
        b'"delivery_mode":2,"delivery_info":{"exchange":"","routing_key":'
        + orjson.dumps(lane)
        + b'},"priority":'
        + str(priority).encode()
        + b',"delivery_tag":"lf","correlation_id":"'
    )
    return head, expires, root, properties, b'"},"body":'


def build_message(job: Job) -> bytes:
    """The job as a Celery protocol-2 message, ready to be pushed. About 1 us per KB."""
    head, expires, root, properties, before_body = _template(job.model, job.priority)
    body = (
        b"[[],"
        + orjson.dumps({"model": job.model, "input": job.input, "params": job.params})
        + _EMBED
    )
    job_id = job.id.encode()
    return b"".join(
        (
            head,
            job_id,
            expires,
            _iso(job.expires_ms),
            _DEADLINE,
            b"null" if job.deadline_ms is None else b"%d" % job.deadline_ms,
            root,
            job_id,
            properties,
            job_id,
            before_body,
            orjson.dumps(body.decode()),
            b"}",
        )
    )


def _iso(unix_ms: int | None) -> bytes:
    if unix_ms is None:
        return b"null"
    return orjson.dumps(datetime.fromtimestamp(unix_ms / 1000, UTC))


def enqueue_args(jobs: Iterable[Job], max_backlog: int) -> list[str | bytes | int | float]:
    """The arguments of the enqueue script for these jobs."""
    args: list[str | bytes | int | float] = [max_backlog]
    for job in jobs:
        args += (
            job.model,
            band_key(job.model, job.priority),
            job.id,
            build_message(job),
            "" if job.expires_ms is None else job.expires_ms,
            job.blob or b"",
        )
    return args


def _parts(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Cut into what one script call should carry, by count and by size of the large inputs."""
    first, size = 0, 0
    for index, job in enumerate(jobs):
        size += len(job.blob or b"")
        if index - first >= _JOBS_PER_TRIP or (size > _BLOB_BYTES_PER_TRIP and index > first):
            yield jobs[first:index]
            first, size = index, len(job.blob or b"")
    yield jobs[first:]


def _positions(jobs: Sequence[Job], reply: Sequence[int]) -> list[int | LaneFull]:
    return [
        LaneFull(f"lane {job.model!r} is full; try again in a few seconds")
        if position < 0
        else position
        for job, position in zip(jobs, reply, strict=True)
    ]


def publish_many(
    client: Redis, jobs: Sequence[Job], *, max_backlog: int = 1_000_000, chunk: int = 500
) -> list[int | LaneFull]:
    """Publish jobs with their records, `chunk` per round trip.

    Returns, per job, the backlog ahead of it, or a LaneFull that says it was
    not taken. Raises redis.exceptions.RedisError; jobs of earlier chunks are
    published then, those of the failing chunk either all or not at all.
    """
    scripts = Scripts(client)
    out: list[int | LaneFull] = []
    for first in range(0, len(jobs), chunk):
        part = jobs[first : first + chunk]
        out += _positions(part, scripts.run("enqueue", (), enqueue_args(part, max_backlog)))
    return out


class Publisher:
    """Publishes from an event loop; what arrives in one turn goes in one round trip."""

    def __init__(self, client: redis.asyncio.Redis, max_backlog: int) -> None:
        self._scripts = AsyncScripts(client)
        self._max_backlog = max_backlog
        self._waiting: list[tuple[Job, asyncio.Future[int]]] = []
        self._flushes: set[asyncio.Task[None]] = set()

    async def publish(self, job: Job) -> int:
        """Publish one job; returns the backlog ahead of it, or raises LaneFull."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._waiting.append((job, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._flush)
        return await future

    async def publish_all(self, jobs: Sequence[Job]) -> list[int | LaneFull]:
        """Publish these in one round trip; per job the backlog ahead of it, or LaneFull."""
        return _positions(jobs, await self._enqueue(jobs))

    async def _enqueue(self, jobs: Sequence[Job]) -> Sequence[int]:
        """Publish; a lost connection is tried again, as the script takes an id only once."""
        args: Args = enqueue_args(jobs, self._max_backlog)
        for pause in _RETRY_PAUSES_SECONDS:
            try:
                reply: Sequence[int] = await self._scripts.run("enqueue", (), args)
            except (RedisConnectionError, RedisTimeoutError, ReadOnlyError):
                await asyncio.sleep(pause)
            else:
                return reply
        last: Sequence[int] = await self._scripts.run("enqueue", (), args)
        return last

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._send(waiting))
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)

    async def _send(self, waiting: list[tuple[Job, asyncio.Future[int]]]) -> None:
        jobs = [job for job, _ in waiting]
        try:
            outcomes: list[int | LaneFull] = []
            for part in _parts(jobs):
                outcomes += await self.publish_all(part)
        except Exception as exc:  # noqa: BLE001 - every waiter must hear of it
            for _, future in waiting:
                if not future.done():
                    future.set_exception(exc)
            return
        for (_, future), outcome in zip(waiting, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, LaneFull):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

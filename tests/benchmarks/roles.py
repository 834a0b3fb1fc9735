"""What runs in a peer's own process: `python -m tests.benchmarks.roles ROLE URL ...`.

Each does what a careful user of that tool would write, over the same Redis
and with the same work per job: the digest of a 1 KB text.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from redis import Redis
from redis.client import PubSub

from tests.benchmarks.arena import LANE, PAYLOAD

RAW_LIST, RAW_UNACKED, RAW_INDEX, RAW_DONE = "raw", "raw:unacked", "raw:index", "raw:done"
EVENTS_HEARD = "bench:events_heard"
RAW_SIZE = 64
_WARM_UP = 200
_CHUNK = 500

_RAW_LOOP = """
-- KEYS: waiting, unacked, index, done counter. ARGV: how many, tag prefix, now, then tag, id, meta
local acked = {}
for i = 4, #ARGV, 3 do
  acked[#acked + 1] = ARGV[i]
  redis.call('SET', 'celery-task-meta-' .. ARGV[i + 1], ARGV[i + 2], 'EX', 86400)
  redis.call('PUBLISH', 'celery-task-meta-' .. ARGV[i + 1], ARGV[i + 2])
end
if #acked > 0 then
  redis.call('HDEL', KEYS[2], unpack(acked))
  redis.call('ZREM', KEYS[3], unpack(acked))
  redis.call('INCRBY', KEYS[4], #acked)
end
local messages = redis.call('RPOP', KEYS[1], ARGV[1])
if not messages then return {} end
local held, scores = {}, {}
for i, message in ipairs(messages) do
  held[#held + 1], held[#held + 2] = ARGV[2] .. i, message
  scores[#scores + 1], scores[#scores + 2] = ARGV[3], ARGV[2] .. i
end
redis.call('HSET', KEYS[2], unpack(held))
redis.call('ZADD', KEYS[3], unpack(scores))
return messages
"""


def celery_app(url: str) -> Any:
    """Plain Celery with its defaults, and a task that does what the echo model does."""
    from celery import Celery

    app = Celery("bench", broker=url, backend=url, set_as_current=False)
    app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)

    @app.task(name="bench.echo", shared=False)
    def echo(value: Any) -> dict[str, Any]:
        return digest(value)

    return app


def digest(value: Any) -> dict[str, Any]:
    """What the echo model answers."""
    content = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return {
        "length": len(content),
        "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
    }


def run_celery_worker(url: str, pool: str, concurrency: str) -> None:
    """A worker as `celery worker` starts it; one log line a task would be the larger cost."""
    arguments = ["worker", "--pool", pool, "--concurrency", concurrency, "--loglevel", "WARNING"]
    celery_app(url).worker_main(arguments)


def run_raw_loop(url: str) -> None:
    """The least that can be done: one script acks 64 and reserves the next 64."""
    redis = Redis.from_url(url)
    script = redis.register_script(_RAW_LOOP)
    keys = [RAW_LIST, RAW_UNACKED, RAW_INDEX, RAW_DONE]
    results: list[Any] = []
    turn = 0
    while True:
        turn += 1
        prefix = f"{turn}."
        messages = script(keys, [RAW_SIZE, prefix, time.time(), *results])
        results = []
        if not messages:
            time.sleep(0.005)
        for number, message in enumerate(messages, 1):
            results += (f"{prefix}{number}", *_raw_job(message))


def _raw_job(message: bytes) -> tuple[str, bytes]:
    document = orjson.loads(message)
    _args, kwargs, _embed = orjson.loads(document["body"])
    job_id = document["headers"]["id"]
    meta = {
        "status": "SUCCESS",
        "result": digest(kwargs["input"]),
        "traceback": None,
        "children": [],
        "date_done": datetime.now(UTC).isoformat(),
        "task_id": job_id,
    }
    return job_id, orjson.dumps(meta)


def run_event_consumer(url: str) -> None:
    """Hear every task event and count the jobs that succeeded, as a monitor would."""
    redis = Redis.from_url(url)
    number = url.rpartition("/")[2]
    ears = redis.pubsub(ignore_subscribe_messages=True)
    ears.psubscribe(f"/{number}.celeryev*")
    while True:
        heard = _hear(ears)
        if heard:
            redis.incrby(EVENTS_HEARD, heard)


def _hear(ears: PubSub) -> int:
    from base64 import b64decode

    message = ears.get_message(timeout=1.0)
    if message is None:
        return 0
    body = orjson.loads(message["data"])["body"]
    return b64decode(body).count(b'"task-succeeded"')


def enqueue_ours(url: str, jobs: int) -> dict[str, float]:
    """`publish_many`: ids, messages and records made on the way."""
    from common.jobs.enqueue import publish_many
    from common.jobs.job import Job

    redis = Redis.from_url(url)
    publish_many(redis, [Job(LANE, PAYLOAD) for _ in range(_WARM_UP)])

    def publish() -> None:
        for _ in range(0, jobs, _CHUNK):
            publish_many(redis, [Job(LANE, PAYLOAD) for _ in range(_CHUNK)])

    return _timed(publish, jobs)


def enqueue_celery(url: str, jobs: int) -> dict[str, float]:
    """`apply_async` with one producer held throughout."""
    app = celery_app(url)
    task = app.tasks["bench.echo"]
    with app.producer_pool.acquire(block=True) as producer:

        def publish(count: int = jobs) -> None:
            for _ in range(count):
                task.apply_async((PAYLOAD,), producer=producer)

        publish(_WARM_UP)
        return _timed(publish, jobs)


def _timed(publish: Any, jobs: int) -> dict[str, float]:
    cpu, began = time.process_time(), time.perf_counter()
    publish()
    wall = time.perf_counter() - began
    return {
        "jobs_per_second": jobs / wall,
        "producer_us": (time.process_time() - cpu) / jobs * 1e6,
        "seconds": wall,
    }


def run_http(role: str, url: str, port: str) -> None:
    """A FastAPI application under uvicorn, set as our own front is."""
    import uvicorn

    app = _celery_front(url) if role == "http-celery" else _constant_front()
    config = uvicorn.Config(app, host="127.0.0.1", port=int(port), log_config=None)
    config.access_log = False
    uvicorn.Server(config).run()


def _job_request() -> Any:
    from pydantic import BaseModel

    class JobRequest(BaseModel):
        model: str
        input: Any
        params: dict[str, Any] = {}

    return JobRequest


def _celery_front(url: str) -> Any:
    """`task.delay` blocks, so the route is a plain function and runs in the thread pool."""
    from fastapi import FastAPI

    task = celery_app(url).tasks["bench.echo"]
    app = FastAPI()

    def submit(job) -> dict[str, str]:  # type: ignore[no-untyped-def]
        return {"id": task.delay(job.input).id}

    submit.__annotations__["job"] = _job_request()
    app.post("/v1/jobs", status_code=202)(submit)
    return app


def _constant_front() -> Any:
    from fastapi import FastAPI

    app = FastAPI()
    answer = {
        "id": "00000000-0000-4000-8000-000000000000",
        "model": LANE,
        "state": "queued",
        "created_at": "2026-11-21T00:00:00Z",
        "attempts": 0,
        "links": {"self": "/v1/jobs/0", "cancel": "/v1/jobs/0/cancel"},
    }

    @app.post("/v1/jobs", status_code=202)
    async def constant() -> dict[str, Any]:
        return answer

    return app


def main(role: str, url: str, *rest: str) -> None:
    """Run one role; a producer prints its figures as one line of JSON."""
    if role == "celery-worker":
        run_celery_worker(url, *rest)
    elif role == "raw-loop":
        run_raw_loop(url)
    elif role == "event-consumer":
        run_event_consumer(url)
    elif role.startswith("http-"):
        run_http(role, url, *rest)
    else:
        producer = {"enqueue-ours": enqueue_ours, "enqueue-celery": enqueue_celery}[role]
        print(json.dumps(producer(url, int(rest[0]))))


if __name__ == "__main__":
    main(*sys.argv[1:])

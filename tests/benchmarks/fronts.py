"""HTTP fronts as contenders: ours, and what others would write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx
import orjson
from redis import Redis

from api.cli.fleet import free_port
from tests.benchmarks.arena import LANE, PAYLOAD, Arena, Sample
from tests.benchmarks.load import Load, closed_loop, post_request
from tests.benchmarks.measure import Meter, percentile, wait_for
from tests.support.stack import Process, Stack

BODY = orjson.dumps({"model": LANE, "input": PAYLOAD})


@dataclass
class Front:
    """One uvicorn process and the Redis behind it."""

    url: str
    process: Process
    redis: Redis
    body: bytes = BODY

    def submit(self, *, seconds: float | None = None, requests: int | None = None) -> Load:
        """32 connections, 1 KB each."""
        request = post_request(self.url, "/v1/jobs", self.body)
        return closed_loop(self.url, request, seconds=seconds, requests=requests)

    def timed_submit(self, seconds: float) -> Sample:
        """Submit for this long, then forget what was queued."""
        meter = Meter(self.redis, [self.process.pid])
        load = self.submit(seconds=seconds)
        spent = meter.read()
        self.redis.flushdb()
        return {
            "jobs_per_second": load.requests / load.seconds,
            "p50_ms": percentile(load.latencies_ms, 0.5),
            "p99_ms": percentile(load.latencies_ms, 0.99),
            "front_us": spent.worker_cpu / load.requests * 1e6,
            "redis_us": spent.redis_cpu / load.requests * 1e6,
            "generator_share": load.generator_share,
        }


def our_front(stack: Stack) -> Front:
    """Our API over the stack's Redis."""
    api = stack.api(LANE)
    return Front(api.url, api.process, Redis.from_url(stack.redis_url))


def peer_front(arena: Arena, role: str) -> Front:
    """Another's, by its role in `roles.py`."""
    database, port = arena.database(), free_port()
    process = arena.peer(role, database, str(port))
    url = f"http://127.0.0.1:{port}"
    wait_for(_answers(url), 30, f"front {role}")
    return Front(url, process, Redis.from_url(database))


def _answers(url: str) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return httpx.get(f"{url}/docs", timeout=1).is_success
        except httpx.HTTPError:
            return False

    return ask

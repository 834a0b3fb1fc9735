"""Bulk: NDJSON into POST /v1/jobs/bulk of one API process, against publish_many without HTTP."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import orjson

from tests.benchmarks.arena import Arena, Sample
from tests.benchmarks.fronts import Front, our_front
from tests.benchmarks.load import Caller
from tests.benchmarks.measure import Meter, medians
from tests.benchmarks.peers import run_producer
from tests.benchmarks.report import Table, Target

OURS, BOUND = "POST /v1/jobs/bulk", "publish_many, no HTTP"
_MISSING = (404, 405)
_CONNECTIONS = 4


def run(arena: Arena) -> Table:
    """Post in a few large bodies; the bound runs in turns with it."""
    jobs = arena.size(40_000, 2_000)
    front, url = our_front(arena.stack()), arena.database()
    table = Table(
        "bulk",
        f"{jobs:,} jobs of 1 KB as NDJSON over {_CONNECTIONS} connections, one API process",
        ["", "jobs/s", "front us/job", "Redis us/job"],
    )
    goal = "at least 25,000 jobs/s accepted"
    if not available(front):
        table.notes.append("not available: this API has no bulk route.")
        table.targets = [Target(4, goal, None, 25_000)]
        return table
    samples = arena.interleave(
        {
            OURS: lambda: _timed_bulk(front, jobs),
            BOUND: lambda: run_producer("enqueue-ours", url, jobs),
        }
    )
    table.samples = samples
    found = {name: medians(taken) for name, taken in samples.items()}
    for name, one in found.items():
        cost = one.get("front_us", one.get("producer_us"))
        table.rows.append([name, one["jobs_per_second"], cost, one.get("redis_us")])
    table.targets = [Target(4, goal, found[OURS]["jobs_per_second"], 25_000)]
    return table


def available(front: Front) -> bool:
    """Whether this API takes bulk."""
    return _post(Caller(front.url), front.body, 1)[0] not in _MISSING


def post_bulk(front: Front, jobs: int) -> int:
    """Post this many jobs; returns how many were accepted. Raises where any was refused."""
    caller = Caller(front.url)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        share = jobs // _CONNECTIONS
        answers = list(pool.map(lambda _: _post(caller, front.body, share), range(_CONNECTIONS)))
    return sum(accepted(status, body) for status, body in answers)


def _post(caller: Caller, line: bytes, lines: int) -> tuple[int, bytes]:
    body = b"\n".join([line] * lines) + b"\n"
    return caller.post("/v1/jobs/bulk", body, content_type="application/x-ndjson")


def accepted(status: int, body: bytes) -> int:
    """How many lines of the answer name a queued job."""
    if status >= 300:
        raise RuntimeError(f"bulk was refused with {status}: {body[:300]!r}")
    lines = [orjson.loads(line) for line in body.splitlines() if line.strip()]
    return sum(1 for line in lines if "id" in line and not line.get("error"))


def _timed_bulk(front: Front, jobs: int) -> Sample:
    front.redis.flushdb()
    meter = Meter(front.redis, [front.process.pid])
    began = time.perf_counter()
    taken = post_bulk(front, jobs)
    wall = time.perf_counter() - began
    spent = meter.read()
    if taken != jobs:
        raise RuntimeError(f"{taken} of {jobs} lines were accepted")
    front.redis.flushdb()
    return {
        "jobs_per_second": jobs / wall,
        "front_us": spent.worker_cpu / jobs * 1e6,
        "redis_us": spent.redis_cpu / jobs * 1e6,
    }

"""Enqueue: one producer process, 1 KB jobs, ids and messages made on the way."""

from __future__ import annotations

from redis import Redis

from tests.benchmarks.arena import Arena, Sample
from tests.benchmarks.measure import medians, redis_cpu_seconds
from tests.benchmarks.peers import bull_home, run_bull, run_producer
from tests.benchmarks.report import Table, Target, ratio

OURS, CELERY, BULL = "publish_many", "Celery apply_async, held producer", "BullMQ addBulk"


def run(arena: Arena) -> Table:
    """Time every producer, in turns."""
    jobs = arena.size(20_000, 1_000)
    few = arena.size(2_000, 100)
    url = arena.database()
    contenders = {
        OURS: lambda: _clean(url, jobs, lambda: run_producer("enqueue-ours", url, jobs)),
        CELERY: lambda: _clean(url, few, lambda: run_producer("enqueue-celery", url, few)),
    }
    if home := bull_home(arena):
        contenders[BULL] = lambda: _clean(url, jobs, lambda: run_bull(home, "enqueue", url, jobs))
    samples = arena.interleave(contenders)
    found = {name: medians(taken) for name, taken in samples.items()}
    celery = found[CELERY]["jobs_per_second"]
    table = Table(
        "enqueue",
        f"{jobs:,} jobs of 1 KB from one process, 500 a call ({few:,} one by one for Celery)",
        ["", "jobs/s", "x apply_async", "producer us/job", "Redis us/job"],
        samples=samples,
    )
    for name, one in found.items():
        rate = one["jobs_per_second"]
        table.rows.append([name, rate, rate / celery, one["producer_us"], one["redis_us"]])
    ours = found[OURS]["jobs_per_second"]
    bull = found[BULL]["jobs_per_second"] if BULL in found else None
    table.targets = [
        Target(2, "at least 15x apply_async", ratio(ours, celery), 15),
        Target(2, "ahead of BullMQ's addBulk (1x)", ratio(ours, bull), 1),
    ]
    return table


def _clean(url: str, jobs: int, produce: object) -> Sample:
    assert callable(produce)
    with Redis.from_url(url) as redis:
        redis.flushdb()
        before = redis_cpu_seconds(redis)
        sample: Sample = produce()
        sample["redis_us"] = (redis_cpu_seconds(redis) - before) / jobs * 1e6
        redis.flushdb()
    return sample

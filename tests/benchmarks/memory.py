"""Memory: API, worker without torch, and Redis per queued job; does draining grow the worker."""

from __future__ import annotations

from tests.benchmarks.arena import Arena
from tests.benchmarks.fronts import our_front
from tests.benchmarks.measure import rss_mb, wait_for
from tests.benchmarks.peers import LaneWorkers
from tests.benchmarks.report import Table, Target

_SECONDS = 400.0


def run(arena: Arena) -> Table:
    """One pass; memory needs no medians."""
    jobs = arena.size(200_000, 5_000, full=1_000_000)
    stack = arena.stack(LANEFLEET_EVENTS="off")
    front = our_front(stack)
    api_before = rss_mb(front.process.pid)
    front.submit(requests=arena.size(10_000, 500))
    api_after = rss_mb(front.process.pid)
    front.redis.flushdb()

    worker = LaneWorkers(stack)
    worker.warm_up()
    pid = worker.pids()[0]
    worker_before = rss_mb(pid)
    worker.pause()
    redis_before = int(worker.redis.info("memory")["used_memory"])
    worker.preload(jobs)
    bytes_per_job = (int(worker.redis.info("memory")["used_memory"]) - redis_before) / jobs
    worker.resume()
    wait_for(lambda: worker.done(jobs // 10), _SECONDS, "a tenth of the jobs")
    worker_early = rss_mb(pid)
    wait_for(lambda: worker.done(jobs), _SECONDS, "the drain")
    worker_after = rss_mb(pid)

    table = Table("memory", f"{jobs:,} jobs of 1 KB queued, then drained", ["", "MB", "after, MB"])
    table.rows = [
        ["API, started and after submits", api_before, api_after],
        ["worker without torch, warm and after a tenth", worker_before, worker_early],
        ["worker without torch, warm and after the drain", worker_before, worker_after],
        ["Redis bytes per queued job", f"{bytes_per_job:,.0f} B", None],
    ]
    table.targets = [
        Target(6, "API under 90 MB", api_after, 90, at_most=True),
        Target(6, "worker without torch under 90 MB", worker_after, 90, at_most=True),
        Target(6, "a queued 1 KB job under 3,000 B of Redis", bytes_per_job, 3_000, at_most=True),
        Target(
            6,
            "from a tenth of the drain to its end the worker grows under 5 MB",
            worker_after - worker_early,
            5,
            at_most=True,
        ),
    ]
    return table

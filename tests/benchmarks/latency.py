"""Latency: 20 jobs/s, Poisson, from submit to result; and what an idle fleet uses."""

from __future__ import annotations

import time

from tests.benchmarks import roles
from tests.benchmarks.arena import LANE, PAYLOAD, Arena, Sample
from tests.benchmarks.fronts import BODY, our_front
from tests.benchmarks.load import Caller, poisson, warm_pool
from tests.benchmarks.measure import cpu_seconds, percentile
from tests.benchmarks.peers import CeleryWorker
from tests.benchmarks.report import Table, Target

OURS, CELERY = "Lanefleet, POST with Prefer: wait", "Celery solo, delay().get()"
_JOBS_PER_SECOND = 20.0


def run(arena: Arena) -> Table:
    """Slices of ours and of Celery's in turns; percentiles over all slices together."""
    seconds = arena.size(4, 1)
    stack = arena.stack()
    worker, front = stack.worker(LANE), our_front(stack)
    celery = CeleryWorker(arena, "solo")
    celery.warm_up()
    idle = _idle_shares(
        {
            "worker": worker.pid,
            "API": front.process.pid,
            "Celery worker": celery.process.pid,
        },
        arena.size(5, 1),
    )
    caller, task = Caller(front.url), roles.celery_app(celery.url).tasks["bench.echo"]
    calls = {
        OURS: lambda: caller.submit_and_wait(BODY),
        CELERY: lambda: task.delay(PAYLOAD).get(timeout=10) and None,
    }
    pools = {name: warm_pool(call) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}

    def slice_of(name: str) -> Sample:
        seed = len(taken[name])  # the same arrivals for both
        found = poisson(calls[name], pools[name], _JOBS_PER_SECOND, seconds, seed)
        taken[name] += found
        return {"p50_ms": percentile(found, 0.5), "p99_ms": percentile(found, 0.99)}

    samples = arena.interleave(
        {name: lambda name=name: slice_of(name) for name in calls}, seconds=50
    )
    for pool in pools.values():
        pool.shutdown()
    return _table(taken, idle, samples, seconds)


def _idle_shares(pids: dict[str, int], seconds: float) -> dict[str, float]:
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    return {name: (cpu_seconds(pid) - before[name]) / seconds * 100 for name, pid in pids.items()}


def _table(
    taken: dict[str, list[float]],
    idle: dict[str, float],
    samples: dict[str, list[Sample]],
    seconds: float,
) -> Table:
    table = Table(
        "latency",
        f"submit to result at {_JOBS_PER_SECOND:g} jobs/s, Poisson, slices of {seconds:g} s",
        ["", "jobs", "p50 ms", "p90 ms", "p99 ms", "worst ms"],
        samples=samples,
    )
    for name, values in taken.items():
        shares = [percentile(values, share) for share in (0.5, 0.9, 0.99)]
        table.rows.append([name, str(len(values)), *shares, max(values)])
    ours, celery = taken[OURS], taken[CELERY]
    p50, p99 = percentile(ours, 0.5), percentile(ours, 0.99)
    table.targets = [
        Target(5, "p50 at most 5 ms", p50, 5, at_most=True),
        Target(5, "p99 at most 20 ms", p99, 20, at_most=True),
        Target(5, "p50 below Celery's (1x)", p50 / percentile(celery, 0.5), 1, at_most=True),
        Target(5, "p99 below Celery's (1x)", p99 / percentile(celery, 0.99), 1, at_most=True),
        Target(5, "an idle worker under 1 % of a core", idle["worker"], 1, at_most=True),
    ]
    shares = ", ".join(f"{name} {share:.2f} %" for name, share in idle.items())
    table.notes.append(f"idle, in shares of a core: {shares}.")
    return table

"""Submit: POST /v1/jobs from 32 kept connections to one uvicorn process, nobody draining."""

from __future__ import annotations

from tests.benchmarks.arena import Arena
from tests.benchmarks.fronts import our_front, peer_front
from tests.benchmarks.measure import medians
from tests.benchmarks.report import Table, Target, ratio

OURS, CELERY = "Lanefleet POST /v1/jobs", "FastAPI + task.delay, thread pool"
CONSTANT = "FastAPI, constant answer"
_BUSY = 0.8


def run(arena: Arena) -> Table:
    """Time every front, in turns."""
    seconds = arena.size(3, 1) / (1 if not arena.quick else 2)
    fronts = {
        OURS: our_front(arena.stack()),
        CELERY: peer_front(arena, "http-celery"),
        CONSTANT: peer_front(arena, "http-constant"),
    }
    for front in fronts.values():
        front.timed_submit(0.3)
    samples = arena.interleave(
        {name: lambda front=front: front.timed_submit(seconds) for name, front in fronts.items()}
    )
    found = {name: medians(taken) for name, taken in samples.items()}
    table = Table(
        "submit",
        f"1 KB jobs over 32 connections for {seconds:g} s, one uvicorn process",
        ["", "req/s", "x task.delay", "p50 ms", "p99 ms", "front us/req", "Redis us/req", "load"],
        samples=samples,
    )
    celery = found[CELERY]["jobs_per_second"]
    for name, one in found.items():
        rate = one["jobs_per_second"]
        table.rows.append(
            [
                name,
                rate,
                rate / celery,
                one["p50_ms"],
                one["p99_ms"],
                one["front_us"],
                one["redis_us"],
                f"{one['generator_share']:.0%}",
            ]
        )
        if one["generator_share"] > _BUSY:
            table.notes.append(f"the load generator was the bound of `{name}`.")
    ours, constant = found[OURS], found[CONSTANT]["jobs_per_second"]
    table.targets = [
        Target(3, "at least 6x task.delay", ratio(ours["jobs_per_second"], celery), 6),
        Target(3, "at least 0.9x a constant answer", ours["jobs_per_second"] / constant, 0.9),
        Target(3, "p99 below 4x p50", ours["p99_ms"] / ours["p50_ms"], 4, at_most=True),
    ]
    return table

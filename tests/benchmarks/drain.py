"""Drain: 20,000 jobs of 1 KB wait, one warm worker process takes them all."""

from __future__ import annotations

from tests.benchmarks.arena import Arena
from tests.benchmarks.measure import medians, rss_mb
from tests.benchmarks.peers import (
    BullWorker,
    CeleryWorker,
    Contender,
    LaneWorkers,
    RawLoop,
    WatchedLaneWorkers,
    bull_home,
)
from tests.benchmarks.report import Table, Target, ratio

OFF, ON = "Lanefleet, events off", "Lanefleet, all events on"
SOLO, PREFORK = "Celery solo", "Celery prefork, 2 processes"
RAW, BULL = "bare loop", "BullMQ, concurrency 64"


def run(arena: Arena) -> Table:
    """Time every contender, in turns."""
    jobs = arena.size(20_000, 1_000)
    few = arena.size(1_000, 100)
    contenders: dict[str, tuple[Contender, int]] = {
        OFF: (LaneWorkers(arena.stack(LANEFLEET_EVENTS="off")), jobs),
        ON: (WatchedLaneWorkers(arena), jobs),
        SOLO: (CeleryWorker(arena, "solo"), few),
        PREFORK: (CeleryWorker(arena, "prefork", 2), few),
        RAW: (RawLoop(arena), jobs),
    }
    if home := bull_home(arena):
        contenders[BULL] = (BullWorker(arena, home), jobs)
    for contender, _ in contenders.values():
        contender.warm_up()
    samples = arena.interleave(
        {
            name: lambda contender=contender, count=count: contender.drain(count)
            for name, (contender, count) in contenders.items()
        },
        seconds=130,
    )
    found = {name: medians(taken) for name, taken in samples.items()}
    memory = {name: sum(map(rss_mb, one.pids())) for name, (one, _) in contenders.items()}
    return _table(found, memory, samples, jobs, few)


def _table(
    found: dict[str, dict[str, float]],
    memory: dict[str, float],
    samples: dict[str, list[dict[str, float]]],
    jobs: int,
    few: int,
) -> Table:
    table = Table(
        "drain",
        f"{jobs:,} jobs of 1 KB preloaded, one worker process ({few:,} for Celery)",
        ["", "jobs/s", "x Celery solo", "worker us/job", "Redis us/job", "Redis busy", "RSS MB"],
        samples=samples,
    )
    solo = found[SOLO]["jobs_per_second"]
    for name, one in found.items():
        table.rows.append(
            [
                name,
                one["jobs_per_second"],
                one["jobs_per_second"] / solo,
                one["worker_us"],
                one["redis_us"],
                f"{one['redis_share']:.0%}",
                memory[name],
            ]
        )
    off, on = found[OFF]["jobs_per_second"], found[ON]["jobs_per_second"]
    bull = found[BULL]["jobs_per_second"] if BULL in found else None
    table.targets = [
        Target(1, "events off, at least 30x Celery solo", ratio(off, solo), 30),
        Target(1, "events off, at least 1.2x BullMQ", ratio(off, bull), 1.2),
        Target(1, "at most 45 us of worker CPU a job", found[OFF]["worker_us"], 45, at_most=True),
        Target(1, "all events on, at least 22x Celery solo", ratio(on, solo), 22),
    ]
    return table

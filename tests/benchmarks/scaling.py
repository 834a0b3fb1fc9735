"""Scaling: several workers over one Redis, and where Redis becomes the bound."""

from __future__ import annotations

from tests.benchmarks.arena import Arena
from tests.benchmarks.flatness import write_catalog
from tests.benchmarks.measure import medians
from tests.benchmarks.peers import LaneWorkers
from tests.benchmarks.report import Table

_RUNS = 3
ONE = "1 worker, 1 lane"


def run(arena: Arena) -> Table:
    """Drain the same number of jobs with more and more workers, in turns."""
    jobs = arena.size(20_000, 1_000)
    fleets = {
        ONE: _fleet(arena, 1, 1),
        "2 workers, 2 lanes": _fleet(arena, 2, 2),
    }
    if not arena.quick:
        fleets["4 workers, 1 lane"] = _fleet(arena, 4, 1)
    for fleet in fleets.values():
        fleet.warm_up()
    samples = arena.interleave(
        {name: lambda fleet=fleet: fleet.drain(jobs) for name, fleet in fleets.items()},
        runs=min(arena.runs, _RUNS),
    )
    found = {name: medians(taken) for name, taken in samples.items()}
    table = Table(
        "scaling",
        f"{jobs:,} jobs of 1 KB preloaded",
        ["", "jobs/s", "x one worker", "workers us/job", "Redis us/job", "Redis busy"],
        samples=samples,
    )
    for name, one in found.items():
        table.rows.append(
            [
                name,
                one["jobs_per_second"],
                one["jobs_per_second"] / found[ONE]["jobs_per_second"],
                one["worker_us"],
                one["redis_us"],
                f"{one['redis_share']:.0%}",
            ]
        )
    least = min(one["redis_us"] for one in found.values())
    bound, alone = 1e6 / least, found[ONE]["worker_us"]
    table.notes.append(
        f"at {least:.0f} us of Redis a job, one Redis is full at {bound:,.0f} jobs/s, which is "
        f"what {bound * alone / 1e6:.1f} workers of {alone:.0f} us a job with a core each would do."
    )
    return table


def _fleet(arena: Arena, workers: int, lanes: int) -> LaneWorkers:
    names = tuple(f"echo-{number}" for number in range(lanes))
    stack = arena.stack(LANEFLEET_EVENTS="off")
    catalog = write_catalog(stack.folder, names)
    models = tuple(names[number % lanes] for number in range(workers))
    return LaneWorkers(stack, names, models, LANEFLEET_CATALOG=str(catalog))

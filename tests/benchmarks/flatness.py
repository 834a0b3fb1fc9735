"""Flatness: does a job cost the same behind 1,000 others as behind a million, on 1 lane as on 50.

The CPU of worker and Redis together is what is compared: on a machine that
others use too, it is steadier than the clock.
"""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.arena import Arena, Sample
from tests.benchmarks.measure import Meter, medians, wait_for
from tests.benchmarks.peers import LaneWorkers
from tests.benchmarks.report import Table, Target

_RUNS = 3
_SECONDS = 240.0


def run(arena: Arena) -> Table:
    """Depths on one lane, then numbers of lanes at one depth; all in turns."""
    depths = [1_000, 10_000, arena.size(100_000, 10_000)] + ([1_000_000] if arena.full else [])
    if arena.quick:
        depths = [500, 2_000]
    counts = [1, 10, 50] if not arena.quick else [1, 5]
    timed = arena.size(20_000, 500)
    worker = LaneWorkers(arena.stack(LANEFLEET_EVENTS="off"))
    turns = {
        f"{depth:,} queued": lambda depth=depth: _first_of(worker, depth, timed) for depth in depths
    }
    fleets = {count: _lanes(arena, count) for count in counts}
    worker.warm_up()
    for count, fleet in fleets.items():
        fleet.warm_up()
        turns[_label(count)] = lambda fleet=fleet: fleet.drain(timed)
    samples = arena.interleave(turns, runs=min(arena.runs, _RUNS))
    found = {name: medians(taken) for name, taken in samples.items()}
    table = Table(
        "flatness",
        f"cost of the first {timed:,} jobs of a backlog; and of {timed:,} jobs over many lanes",
        ["", "jobs/s", "worker us/job", "Redis us/job", "both us/job"],
        samples=samples,
    )
    for name, one in found.items():
        table.rows.append(
            [name, one["jobs_per_second"], one["worker_us"], one["redis_us"], _both(one)]
        )
    by_depth = [_both(found[f"{depth:,} queued"]) for depth in depths]
    by_lanes = [_both(found[_label(count)]) for count in counts]
    table.targets = [
        Target(
            7,
            f"{depths[0]:,} to {depths[-1]:,} queued: within 1.15x",
            max(by_depth) / min(by_depth),
            1.15,
            at_most=True,
        ),
        Target(
            7,
            f"1 to {counts[-1]} lanes: within 1.15x",
            max(by_lanes) / min(by_lanes),
            1.15,
            at_most=True,
        ),
    ]
    return table


def _label(lanes: int) -> str:
    return "1 lane" if lanes == 1 else f"{lanes} lanes"


def _both(sample: Sample) -> float:
    return sample["worker_us"] + sample["redis_us"]


def _first_of(worker: LaneWorkers, depth: int, timed: int) -> Sample:
    """Drain `timed` jobs from a backlog of `depth`; a shallow one is filled again and again."""
    if depth < timed:
        return medians([worker.drain(depth) for _ in range(timed // depth)])
    worker.pause()
    worker.preload(depth)
    meter = Meter(worker.redis, worker.pids())
    worker.resume()
    wait_for(lambda: worker.settled() >= timed, _SECONDS, "the first jobs of the backlog")
    settled, spent = worker.settled(), meter.read()
    worker.pause()
    worker.clear()  # what the worker still holds will be fenced
    worker.resume()
    return spent.per_job(settled)


def _lanes(arena: Arena, count: int) -> LaneWorkers:
    names = tuple(f"echo-{number}" for number in range(count))
    stack = arena.stack(LANEFLEET_EVENTS="off")
    catalog = write_catalog(stack.folder, names)
    return LaneWorkers(stack, names, (",".join(names),), LANEFLEET_CATALOG=str(catalog))


def write_catalog(folder: Path, names: tuple[str, ...]) -> Path:
    """A catalog of echo models by these names, else as the shipped one's."""
    path = folder / "models.yaml"
    entries = "".join(
        f"  {name}:\n    handler: echo\n    input: json\n    max_batch: 256\n"
        "    run_identical_once: false\n"
        for name in names
    )
    path.write_text("models:\n" + entries)
    return path

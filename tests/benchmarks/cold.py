"""The time from the start of a worker to its first result, with the job waiting for it.

    python -m tests.benchmarks --only cold
    python -m tests.benchmarks.cold REVISION_OR_FOLDER   # against another tree, turn by turn

Seconds by the clock depend on what else the machine does. CPU seconds, of the supervisor and its
worker until the result, hardly do; so another tree is compared by these.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from redis import Redis

from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.redis.keys import meta_key
from tests.benchmarks.arena import Arena, Sample, open_arena
from tests.benchmarks.checkouts import Checkout, open_checkout
from tests.benchmarks.measure import cpu_seconds, medians, process_tree, wait_for
from tests.benchmarks.pairs import ratios
from tests.benchmarks.report import Table, Target
from tests.support.stack import ROOT, Process

_INPUTS = {"minilm": "A sentence to embed.", "echo": "hello"}
_LONGEST_SECONDS = 120.0
_WARM_SECONDS = 3.0


def run(arena: Arena) -> Table:
    """Each model's worker in turn; the first round warms the disk and does not count."""
    turns = {model: partial(start_once, arena, model, {}) for model in _INPUTS}
    if not arena.quick:
        arena.interleave(turns, runs=1)
    samples = arena.interleave(turns)
    found = {model: medians(runs) for model, runs in samples.items() if runs}
    table = Table("cold", "a worker's start to its first result", ["", "s", "CPU s"])
    table.samples = samples
    table.rows = [[model, one["seconds"], one["cpu"]] for model, one in found.items()]
    table.targets = [
        Target(
            1,
            f"MiniLM on a warm disk within {_WARM_SECONDS:g} s",
            found["minilm"]["seconds"],
            _WARM_SECONDS,
            at_most=True,
        )
    ]
    return table


def start_once(arena: Arena, model: str, environment: Mapping[str, str]) -> Sample:
    """Start a supervised worker for a job that waits, and stop it after its result."""
    url = arena.database()
    job = Job(model, _INPUTS[model])
    process = Process(
        [sys.executable, "-m", "worker", "--devices", "cpu"],
        {
            "LANEFLEET_REDIS_URL": url,
            "LANEFLEET_MODELS": model,
            "LANEFLEET_LOG_LEVEL": "warning",
            "LANEFLEET_STATE_DIR": str(arena.folder / "state"),
            "PYTHONDONTWRITEBYTECODE": "",  # compiled once, by the round that does not count
            **environment,
        },
        arena.folder / "cold.log",
        Path(environment.get("PYTHONPATH", ROOT)),
    )
    arena.processes.append(process)
    with Redis.from_url(url) as client:
        publish_many(client, [job])
        began = time.perf_counter()
        process.start()
        wait_for(lambda: client.exists(meta_key(job.id)), _LONGEST_SECONDS, f"{model}'s result")
        seconds = time.perf_counter() - began
        cpu = sum(map(cpu_seconds, process_tree(process.pid)))
        process.stop()
    return {"seconds": seconds, "cpu": cpu}


def main(argv: list[str] | None = None) -> int:
    """Compare this tree with another one; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cold")
    parser.add_argument("base", help="a tree or a revision of this project")
    parser.add_argument("--runs", type=int, default=5, help="rounds")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="lanefleet-cold-") as name:
        folder = Path(name)
        with (
            open_checkout(args.base, folder / "base") as base,
            open_checkout(str(ROOT), folder / "head") as head,
            open_arena(folder / "arena", folder / "cache") as arena,
        ):
            _compare(arena, {"base": base, "head": head}, args.runs)
    return 0


def _compare(arena: Arena, trees: Mapping[str, Checkout], runs: int) -> None:
    turns = {
        name: partial(start_once, arena, "minilm", tree.environment) for name, tree in trees.items()
    }
    arena.interleave(turns, runs=1)  # compiles both trees
    samples = arena.interleave(turns, runs=runs)
    for name, tree in trees.items():
        found = medians(samples[name])
        print(f"{tree.title}: {found['seconds']:.2f} s, {found['cpu']:.2f} CPU s")
    for field in ("seconds", "cpu"):
        pairs = [(one[field], two[field]) for one, two in zip(*samples.values(), strict=True)]
        print(f"{field}: head / base {statistics.median(ratios(pairs)):.2f}")


if __name__ == "__main__":
    sys.exit(main())

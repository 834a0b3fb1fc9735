"""`map` and `lanefleet enqueue`, results and all, against a bare loop of bulk submits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from orjson import dumps

from api.client import AsyncClient, Client
from tests.benchmarks.arena import LANE, PAYLOAD, Arena, Sample
from tests.benchmarks.bulk import accepted
from tests.benchmarks.fronts import BODY, Front, our_front
from tests.benchmarks.load import Caller
from tests.benchmarks.measure import medians
from tests.benchmarks.report import Table, Target
from tests.support.stack import ROOT, Stack, wait_until

LOOP, DRAINED = "bulk POST loop, accepted", "bulk POST loop, until the last job is done"
MAP, ASYNC_MAP = "Client.map, all results", "AsyncClient.map, all results"
COMMAND = "lanefleet enqueue, a file of results"
_CHUNK = 512
_LANEFLEET = (sys.executable, "-c", "from api.cli import main; main()", "enqueue")


def run(arena: Arena) -> Table:
    """One API process, one worker, one client; in turns."""
    jobs = arena.size(40_960, 1_024, 204_800)
    stack = arena.stack()
    stack.worker(LANE)
    front = our_front(stack)
    source = arena.folder / "rows.jsonl"
    source.write_bytes(b"\n".join([dumps(PAYLOAD)] * jobs))

    def enqueue_all(url: str, jobs: int) -> int:
        return _enqueue_all(source, url, jobs)

    samples = arena.interleave(
        {
            LOOP: lambda: _timed(stack, front, jobs, _post_all, drained=False),
            DRAINED: lambda: _timed(stack, front, jobs, _post_all),
            MAP: lambda: _timed(stack, front, jobs, _map_all),
            ASYNC_MAP: lambda: _timed(stack, front, jobs, _map_all_async),
            COMMAND: lambda: _timed(stack, front, jobs, enqueue_all),
        }
    )
    table = Table(
        "mapping",
        f"{jobs:,} echo jobs of 1 KB, {_CHUNK} a request, one API process, one worker",
        ["", "jobs/s", "of the loop", "of the loop until the last job is done"],
        samples=samples,
    )
    found = {name: medians(taken)["jobs_per_second"] for name, taken in samples.items()}
    for name, rate in found.items():
        table.rows.append([name, rate, rate / found[LOOP], rate / found[DRAINED]])
    table.targets = [
        Target(6, "enqueue at least 0.6 of the loop", found[COMMAND] / found[LOOP], 0.6)
    ]
    return table


def _timed(
    stack: Stack,
    front: Front,
    jobs: int,
    go: Callable[[str, int], int],
    *,
    drained: bool = True,
) -> Sample:
    def done() -> int:
        return stack.stats(LANE).get("succeeded", 0)

    before, began = done(), time.perf_counter()
    if go(front.url, jobs) != jobs:
        raise RuntimeError("not every job was accepted")
    wall = time.perf_counter() - began
    wait_until(lambda: done() - before >= jobs, 120, "all jobs to be done")
    if drained:
        wall = time.perf_counter() - began
    return {"jobs_per_second": jobs / wall}


def _post_all(url: str, jobs: int) -> int:
    caller, body = Caller(url), b"\n".join([BODY] * _CHUNK) + b"\n"
    kind = "application/x-ndjson"
    return sum(
        accepted(*caller.post("/v1/jobs/bulk", body, content_type=kind))
        for _ in range(jobs // _CHUNK)
    )


def _map_all(url: str, jobs: int) -> int:
    with Client(url) as client:
        return sum(1 for _ in client.map(LANE, (PAYLOAD for _ in range(jobs)), chunk=_CHUNK))


def _enqueue_all(source: Path, url: str, jobs: int) -> int:
    """By the command, from its start to its end; each run has a file of its own."""
    out = source.with_name(f"results-{time.monotonic_ns()}.jsonl")
    command = [*_LANEFLEET, str(source), "-m", LANE, "--out", str(out), "--url", url, "--json"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with out.open("rb") as lines:
        found = sum(1 for _ in lines)
    out.unlink()
    return found


def _map_all_async(url: str, jobs: int) -> int:
    async def count() -> int:
        async with AsyncClient(url) as client:
            inputs = (PAYLOAD for _ in range(jobs))
            return len([job["id"] async for job in client.map(LANE, inputs, chunk=_CHUNK)])

    return asyncio.run(count())

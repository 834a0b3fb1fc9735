"""Webhooks: how fast one courier delivers, and what one on every job costs the lane's drain."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from common.jobs.enqueue import next_of, publish_many
from common.jobs.job import Job
from common.jobs.result_document import Stamp
from common.redis.keys import EVENTS
from tests.benchmarks.arena import LANE, PAYLOAD, Arena, Sample
from tests.benchmarks.measure import cpu_seconds, medians
from tests.benchmarks.peers import LaneWorkers
from tests.benchmarks.report import Table, Target, ratio
from tests.support.stack import Process, Stack

PLAIN, TOLD = "no webhook", "a webhook on every job, no courier"
DELIVERED = "one courier"
_CHUNK = 500
_LEAST_PER_SECOND = 1_500
_LEAST_DRAIN = 0.6
_LONGEST_SECONDS = 300
_OPEN = {"LANEFLEET_WEBHOOK_ALLOW": "127.0.0.0/8"}


class ToldWorkers(LaneWorkers):
    """Workers whose jobs all have a webhook; nobody delivers them meanwhile."""

    def preload(self, jobs: int) -> None:
        for first in range(0, jobs, _CHUNK):
            size = min(_CHUNK, jobs - first)
            part = [Job(LANE, PAYLOAD, webhook="http://127.0.0.1:9/") for _ in range(size)]
            publish_many(self.redis, part, max_backlog=10_000_000)


def run(arena: Arena) -> Table:
    """Drain both ways in turns, then deliver."""
    jobs, count = arena.size(20_000, 500), arena.size(10_000, 300)
    contenders = {PLAIN: LaneWorkers(arena.stack()), TOLD: ToldWorkers(arena.stack())}
    for contender in contenders.values():
        contender.warm_up()
    samples: dict[str, list[Sample]] = arena.interleave(
        {name: lambda one=one: one.drain(jobs) for name, one in contenders.items()}  # type: ignore[misc]
    )
    for contender in contenders.values():
        for worker in contender.workers:
            worker.kill()
    samples |= arena.interleave({DELIVERED: lambda: deliver(arena, count)})
    found = {name: medians(taken) for name, taken in samples.items()}
    table = Table(
        "webhooks",
        f"{jobs:,} jobs drained by one worker; {count:,} signed deliveries to a loopback receiver",
        ["", "a second", "us of its process"],
    )
    table.samples = samples
    table.rows = [
        *([name, found[name]["jobs_per_second"], None] for name in (PLAIN, TOLD)),
        [DELIVERED, found[DELIVERED]["per_second"], found[DELIVERED]["us"]],
    ]
    share = ratio(found[TOLD]["jobs_per_second"], found[PLAIN]["jobs_per_second"])
    table.targets = [
        Target(3, "deliveries a second", found[DELIVERED]["per_second"], _LEAST_PER_SECOND),
        Target(3, "drain with a webhook on every job", share, _LEAST_DRAIN),
    ]
    return table


def deliver(arena: Arena, count: int) -> Sample:
    """Have one courier deliver events that wait, to a receiver in a process of its own."""
    stack = arena.stack(**_OPEN)
    receiver = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.webhook_receiver", str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiver.stdout is not None
    try:
        port = int(receiver.stdout.readline())
        put_events(stack, count, f"http://127.0.0.1:{port}/hook")
        courier = stack._start("courier", ["-m", "worker", "--role", "courier"], LANE, {})
        seconds = float(receiver.stdout.readline())
        used = _cpu(courier)
        courier.kill()
    finally:
        receiver.kill()
        receiver.wait()
    return {"per_second": count / seconds, "us": used / count * 1e6}


def put_events(stack: Stack, count: int, url: str) -> None:
    """Events as finished jobs leave them."""
    stamp = Stamp(LANE, "1", "w", 8, 1.0, 1)
    pipe = stack.redis.pipeline(transaction=False)
    for number in range(count):
        job = replace(Job(LANE, None), id=f"job-{number}")
        meta = stamp.success(b'{"length": 1000}', job.id, 1, 1, 1, "")
        fields = {"id": job.id, "next": next_of(url), "meta": meta}
        pipe.xadd(EVENTS, fields)  # type: ignore[arg-type]
        if number % _CHUNK == 0:
            pipe.execute()
    pipe.execute()


def _cpu(process: Process) -> float:
    return cpu_seconds(process.pid)

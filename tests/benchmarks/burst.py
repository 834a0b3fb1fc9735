"""Burst: 10,000 jobs at once through HTTP; how long until every result is there."""

from __future__ import annotations

from tests.benchmarks import bulk
from tests.benchmarks.arena import LANE, Arena, Sample
from tests.benchmarks.fronts import Front, our_front, peer_front
from tests.benchmarks.measure import Meter, medians, wait_for
from tests.benchmarks.peers import CeleryWorker, LaneWorkers
from tests.benchmarks.report import Table, Target, ratio

CELERY = "FastAPI + task.delay, Celery solo"
_SECONDS = 120.0


def run(arena: Arena) -> Table:
    """Ours through bulk, where there is such a route, else job by job; then Celery's."""
    jobs, few = arena.size(10_000, 1_000), arena.size(1_000, 100)
    stack = arena.stack()
    ours, front = LaneWorkers(stack), our_front(stack)
    ours.warm_up()
    in_bulk = bulk.available(front)
    celery, other = _celery(arena)
    name = "Lanefleet, bulk" if in_bulk else "Lanefleet, one POST a job"
    samples = arena.interleave(
        {
            name: lambda: _ours(ours, front, jobs, in_bulk=in_bulk),
            CELERY: lambda: _theirs(celery, other, few),
        }
    )
    found = {label: medians(taken) for label, taken in samples.items()}
    table = Table(
        "burst",
        f"{jobs:,} jobs of 1 KB at once ({few:,} for Celery), to the last result",
        ["", "seconds", "jobs/s", "accepted after s", "worker us/job", "Redis us/job"],
        samples=samples,
    )
    for label, one in found.items():
        table.rows.append(
            [
                label,
                one["seconds"],
                one["jobs_per_second"],
                one["accepted_seconds"],
                one["worker_us"],
                one["redis_us"],
            ]
        )
    gain = ratio(found[name]["jobs_per_second"], found[CELERY]["jobs_per_second"])
    table.targets = [Target(4, "burst through HTTP, ahead of task.delay (1x)", gain, 1)]
    if not in_bulk:
        table.notes.append("this API has no bulk route; the burst went job by job.")
    return table


def _celery(arena: Arena) -> tuple[CeleryWorker, Front]:
    front = peer_front(arena, "http-celery")
    worker = CeleryWorker(arena, "solo", url=_url_of(front))
    worker.warm_up()
    return worker, front


def _url_of(front: Front) -> str:
    """The database that the front was given; its command line ends in URL and port."""
    return front.process.command[-2]


def _ours(worker: LaneWorkers, front: Front, jobs: int, *, in_bulk: bool) -> Sample:
    worker.redis.delete(f"lf:lane:{LANE}:stats")
    meter = Meter(worker.redis, worker.pids())
    if in_bulk:
        bulk.post_bulk(front, jobs)
    else:
        front.submit(requests=jobs)
    accepted = meter.read().wall
    wait_for(lambda: worker.done(jobs), _SECONDS, "the burst's results")
    spent = meter.read()
    worker.clear()
    return {"seconds": spent.wall, "accepted_seconds": accepted, **spent.per_job(jobs)}


def _theirs(worker: CeleryWorker, front: Front, jobs: int) -> Sample:
    meter = Meter(worker.redis, worker.pids())
    front.submit(requests=jobs)
    accepted = meter.read().wall
    wait_for(lambda: worker.results() >= jobs, _SECONDS, "the burst's results")
    spent = meter.read()
    worker.forget_results()
    return {"seconds": spent.wall, "accepted_seconds": accepted, **spent.per_job(jobs)}

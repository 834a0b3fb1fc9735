"""A job of the first band beside a bulk on its lane: how much later, and what the bulk loses."""

from __future__ import annotations

import time
from itertools import count

import httpx

from common.jobs.job import Job
from tests.benchmarks.arena import LANE, Arena, Sample
from tests.benchmarks.measure import percentile
from tests.benchmarks.report import Table, Target
from tests.support.stack import ApiProcess, Stack, wait_until

IDLE, BESIDE, ALONE = "no bulk", "beside a bulk", "the bulk alone"
BATCH, BATCH_MS, SLACK_MS = 16, 20, 10
_CATALOG = f"""\
models:
  {LANE}:
    handler: echo
    input: json
    max_batch: {BATCH}
    run_identical_once: false
"""
_PARAMS = {"sleep_ms": BATCH_MS}


class Lane:
    """A lane whose batches take as long as they are told, with an API in front."""

    def __init__(self, arena: Arena, seconds: float) -> None:
        catalog = arena.folder / "models.yaml"
        catalog.write_text(_CATALOG)
        self._stack: Stack = arena.stack(LANEFLEET_CATALOG=str(catalog))
        self._stack.worker(LANE)
        self._api: ApiProcess = self._stack.api(LANE)
        self._seconds = seconds
        self._numbers = count()
        self.taken_ms: dict[str, list[float]] = {IDLE: [], BESIDE: []}
        self._probe()

    def idle(self) -> Sample:
        """Jobs one by one, with nothing beside them."""
        return self._noted(IDLE, self._probe())

    def beside(self) -> Sample:
        """The same beside a bulk, of which is always more than a batch."""
        self._fill()
        before, began = self._done(), time.monotonic()
        taken = self._probe()
        rate = (self._done() - before) / (time.monotonic() - began)
        self._drain()
        return {**self._noted(BESIDE, taken), "jobs_per_second": rate}

    def alone(self) -> Sample:
        """Only the bulk."""
        self._fill()
        before, began = self._done(), time.monotonic()
        time.sleep(self._seconds)
        rate = (self._done() - before) / (time.monotonic() - began)
        self._drain()
        return {"jobs_per_second": rate}

    def _noted(self, name: str, taken: list[float]) -> Sample:
        self.taken_ms[name] += taken
        return {"p50_ms": percentile(taken, 0.5), "p95_ms": percentile(taken, 0.95)}

    def _probe(self) -> list[float]:
        body = {"model": LANE, "input": "urgent", "params": _PARAMS}
        taken, ends = [], time.monotonic() + self._seconds
        with httpx.Client(base_url=self._api.url, timeout=30) as client:
            while time.monotonic() < ends:
                began = time.monotonic()
                answer = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"})
                if answer.json()["state"] != "succeeded":
                    raise RuntimeError(answer.text)
                taken.append((time.monotonic() - began) * 1000)
                time.sleep(0.05 + 0.013 * (len(taken) % 7))  # at any point of a batch
        return taken

    def _fill(self) -> None:
        """Publish what takes three times as long as the look at it, and wait until it runs."""
        jobs = int(self._seconds * 3 * 1000 / BATCH_MS) * BATCH
        before = self._done()
        self._stack.publish(
            [Job(LANE, next(self._numbers), params=_PARAMS, priority=6) for _ in range(jobs)]
        )
        wait_until(lambda: self._done() > before + BATCH, 30, "the bulk to run")

    def _drain(self) -> None:
        if not self._stack.waiting(LANE):
            raise RuntimeError("the bulk was too short: nothing was measured beside it")
        for band in ("", "\x06\x163", "\x06\x166", "\x06\x169"):
            self._stack.redis.delete(LANE + band)
        done = -1
        while done != (done := self._done()):  # what is leased already
            time.sleep(0.3)

    def _done(self) -> int:
        return self._stack.stats(LANE).get("succeeded", 0)


def run(arena: Arena) -> Table:
    """In turns, so that whatever else the machine does falls on all of them alike."""
    lane = Lane(arena, arena.size(40, 10, 80) / 10)
    samples = arena.interleave({IDLE: lane.idle, BESIDE: lane.beside, ALONE: lane.alone})
    table = Table(
        "bands",
        f"one job at a time, {BATCH_MS} ms a batch of {BATCH}, over HTTP",
        ["", "p50 ms", "p95 ms", "items/s"],
        samples=samples,
    )
    p95 = {name: percentile(taken, 0.95) for name, taken in lane.taken_ms.items()}
    rates = {name: _middle(samples[name], "jobs_per_second") for name in (BESIDE, ALONE)}
    for name, taken in lane.taken_ms.items():
        table.rows.append([name, percentile(taken, 0.5), p95[name], rates.get(name)])
    table.rows.append([ALONE, None, None, rates[ALONE]])
    bound = BATCH_MS + p95[IDLE] + SLACK_MS
    says = f"p95 beside at most a batch, its p95 without and {SLACK_MS} ms: {bound:.0f} ms"
    table.targets = [
        Target(7, says, p95[BESIDE], bound, at_most=True),
        Target(7, "items of both at least 0.95 of the bulk", rates[BESIDE] / rates[ALONE], 0.95),
    ]
    return table


def _middle(samples: list[Sample], name: str) -> float:
    values = sorted(one[name] for one in samples)
    return values[len(values) // 2]

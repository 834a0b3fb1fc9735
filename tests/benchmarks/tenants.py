"""Tenants: one sends a job at a time while another has 100,000 waiting; its p95 against idle."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from redis import Redis

from api.tenants.api_keys import Keyring
from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.redis.keys import API_KEYS
from tests.benchmarks.arena import LANE, Arena, Sample
from tests.benchmarks.measure import percentile
from tests.benchmarks.report import Table, Target
from tests.support.stack import Stack

_BATCH_MS = 20
_PACED = "paced"
_PAUSE_SECONDS = 0.03
"""Longest pause before the next job: arrivals must not keep step with the batches."""
_CATALOG = f"""models:
  {LANE}: {{handler: echo, max_batch: 64}}
  {_PACED}:
    handler: tests.support.handlers:Paced
    max_batch: 32
    options: {{batch_ms: {_BATCH_MS}, cold_ms: {_BATCH_MS}}}
"""


class Town:
    """A fleet that asks for keys, one model, and two tenants."""

    def __init__(self, arena: Arena, model: str) -> None:
        self.model = model
        self.stack: Stack = arena.stack(LANEFLEET_API_KEYS_REQUIRED="true")
        catalog = Path(self.stack.folder / "models.yaml")
        catalog.write_text(_CATALOG)
        self.stack.environment["LANEFLEET_CATALOG"] = str(catalog)
        self.redis: Redis = self.stack.redis
        _, key = Keyring(self.redis).create("bench", "light", frozenset({"submit"}))
        self.kept = self.redis.hgetall(API_KEYS)
        self.stack.worker(model)
        self.http = httpx.Client(
            base_url=self.stack.api(model).url,
            headers={"Authorization": f"Bearer {key}", "Prefer": "wait=30"},
            timeout=60,
        )
        self.dice = random.Random(1)

    def flood(self, jobs: int) -> None:
        """Let the other tenant have so many waiting."""
        have = int(self.redis.hget("lf:tenants:in_flight", "heavy") or 0)  # type: ignore[arg-type]
        wanted = [Job(self.model, n, tenant="heavy") for n in range(jobs - have)]
        publish_many(self.redis, wanted)

    def drain(self) -> None:
        """Forget every job; what is in the worker's hands is fenced."""
        with self.redis.pipeline() as pipe:
            pipe.flushdb()
            pipe.hset(API_KEYS, mapping=self.kept)  # type: ignore[arg-type]
            pipe.execute()
        time.sleep(0.5)

    def send(self, count: int) -> list[float]:
        """Milliseconds from submit to result of so many jobs, one at a time."""
        taken = []
        for number in range(count):
            time.sleep(self.dice.uniform(0, _PAUSE_SECONDS))
            began = time.perf_counter()
            answer = self.http.post("/v1/jobs", json={"model": self.model, "input": number})
            assert answer.status_code == 200, answer.text
            taken.append((time.perf_counter() - began) * 1000)
        return taken


def run(arena: Arena) -> Table:
    """Idle and flooded slices in turns, for a model that does nothing and one that takes time."""
    flood, count = arena.size(100_000, 3_000), arena.size(60, 5)
    table = Table(
        "tenants",
        f"one job at a time, idle and while another tenant has {flood:,} waiting",
        ["", "jobs", "p50 ms", "p95 ms", "x idle p50", "x idle p95"],
    )
    for model, title in ((LANE, "echo"), (_PACED, f"{_BATCH_MS} ms a batch")):
        town = Town(arena, model)
        town.send(5)
        idle, flooded = f"{title}, idle", f"{title}, flooded"
        taken: dict[str, list[float]] = {idle: [], flooded: []}
        table.samples |= arena.interleave(
            {
                idle: _keeping(lambda town=town: town.send(count), taken[idle]),
                flooded: _keeping(lambda town=town: _flooded(town, flood, count), taken[flooded]),
            }
        )
        _report(table, title, taken[idle], taken[flooded])
    return table


def _keeping(turn: Callable[[], list[float]], taken: list[float]) -> Callable[[], Sample]:
    def slice_of() -> Sample:
        found = turn()
        taken.extend(found)
        return {"p50_ms": percentile(found, 0.5), "p95_ms": percentile(found, 0.95)}

    return slice_of


def _flooded(town: Town, flood: int, count: int) -> list[float]:
    town.flood(flood)
    taken = town.send(count)
    town.drain()
    return taken


def _report(table: Table, title: str, idle: list[float], flooded: list[float]) -> None:
    p50, p95 = (percentile(idle, share) for share in (0.5, 0.95))
    for name, values in (("idle", idle), ("flooded", flooded)):
        own50, own95 = percentile(values, 0.5), percentile(values, 0.95)
        row = [f"{title}, {name}", str(len(values)), own50, own95, own50 / p50, own95 / p95]
        table.rows.append(row)
    slower = percentile(flooded, 0.95) / p95
    table.targets.append(Target(7, f"{title}: p95 at most 2x idle", slower, 2, at_most=True))

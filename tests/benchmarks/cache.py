"""The cache: a hit against a miss of MiniLM, and identical jobs that are under way together."""

from __future__ import annotations

import time
from itertools import count

import orjson

from tests.benchmarks.arena import Arena, Sample
from tests.benchmarks.load import Caller
from tests.benchmarks.measure import percentile, wait_for
from tests.benchmarks.report import Table, Target
from tests.integration.test_cache import submit_at_once
from tests.support.stack import Stack

MODEL = "minilm"
SENTENCE = (
    "A sentence of about twenty words, as long as most that come, is what this model embeds best"
)
MISS, HIT = "a miss: queue, worker, model", "a hit"
_NEEDED_RATIO = 20


def run(arena: Arena) -> Table:
    """Misses and hits in turns over one kept connection, through POST with Prefer: wait."""
    calls = arena.size(200, 20)
    stack = arena.stack(LANEFLEET_STATE_DIR=str(arena.folder / "state"))
    stack.worker(MODEL)
    wait_for(lambda: stack.redis.exists("lf:fingerprints"), 30, "the model's fingerprint")
    url = stack.api(MODEL).url
    caller, serial = Caller(url), count()
    taken: dict[str, list[float]] = {MISS: [], HIT: []}
    known: list[bytes] = []

    def ask(body: bytes, expected: bool) -> float:
        began = time.perf_counter()
        status, answer = caller.post("/v1/jobs", body, prefer="wait=10")
        seconds = time.perf_counter() - began
        job = orjson.loads(answer)
        if status != 200 or bool(job.get("cached")) is not expected:
            raise RuntimeError(f"{status}, cached is {job.get('cached')}: {answer[:200]!r}")
        return seconds * 1000

    def misses() -> Sample:
        bodies = [
            orjson.dumps({"model": MODEL, "input": f"{SENTENCE}, {next(serial)}."})
            for _ in range(calls)
        ]
        found = [ask(body, False) for body in bodies]
        known.extend(bodies)
        taken[MISS] += found
        time.sleep(0.3)  # until the last of them are written
        return {"p50_ms": percentile(found, 0.5)}

    def hits() -> Sample:
        found = [ask(known[number % len(known)], True) for number in range(5 * calls)]
        taken[HIT] += found
        return {"p50_ms": percentile(found, 0.5)}

    ask(orjson.dumps({"model": MODEL, "input": SENTENCE}), False)
    samples = arena.interleave({MISS: misses, HIT: hits}, seconds=50)
    table = Table(
        "cache",
        f"{MODEL} through POST with Prefer: wait, sentences of 20 words",
        ["", "requests", "p50 ms", "p90 ms", "p99 ms"],
        samples=samples,
    )
    for name, values in taken.items():
        shares = [percentile(values, share) for share in (0.5, 0.9, 0.99)]
        table.rows.append([name, str(len(values)), *shares])
    hit, miss = percentile(taken[HIT], 0.5), percentile(taken[MISS], 0.5)
    ran, ms = _identical(stack, url, arena.size(1_000, 100))
    table.targets = [
        Target(4, "a hit's p50 under 2 ms", hit, 2, at_most=True),
        Target(4, f"a miss at least {_NEEDED_RATIO}x a hit", miss / hit, _NEEDED_RATIO),
        Target(3, "identical submits at once: executions", float(ran), 1, at_most=True),
    ]
    table.notes.append(f"the identical submits were all answered after {ms:.0f} ms.")
    return table


def _identical(stack: Stack, url: str, submits: int) -> tuple[int, float]:
    """How many jobs a worker ran for so many identical submits at once, and how long all took."""
    before, began = stack.stats(MODEL)["succeeded"], time.perf_counter()
    answers = submit_at_once(url, submits, model=MODEL, input="the same for all")
    seconds = time.perf_counter() - began
    if {one.get("state") for one in answers} != {"succeeded"}:
        raise RuntimeError(f"not all succeeded: {answers[0]}")
    return stack.stats(MODEL)["succeeded"] - before, seconds * 1000

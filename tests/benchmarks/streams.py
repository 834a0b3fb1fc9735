"""What streaming costs a token, and what a lane of batches pays beside a lane of steps.

A generator without a model says 2,000 tokens a second in 16 rows. The cost of streaming is the CPU
time of the worker, Redis and one reader of every stream, less that of the same texts told at their
end. The lane beside it is `echo`, whose every batch takes 5 ms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from common.jobs.job import Job
from common.redis.connect import database_of
from common.redis.keys import META_PREFIX, SAID_PREFIX, scoped_channel
from common.redis.scripts import Scripts
from common.worker_report import LaneReport
from tests.benchmarks.arena import LANE, Arena, Sample
from tests.benchmarks.measure import Meter, medians, percentile, wait_for
from tests.benchmarks.report import Table, Target
from tests.support.generation import GREEDY, catalog
from tests.support.stack import Process, Stack

AT_END, STREAMED = "told at the end", "streamed, each to a reader"
ALONE, BESIDE = "echo alone", "echo beside 16 rows"
FIRST = "first token, of one job at a time"
_ROWS, _STEP_MS, _LONG_STEP_MS = 16, 8, 20
_BATCH_MS = 5
_MOST_US = 60.0
_MOST_FIRST_MS = 6.0
_MOST_STEPS = 1.2
_LEAST_SPEED = 0.7
_LONGEST_SECONDS = 300.0


class _Reader:
    """Hears every stream on one thread, whose CPU time is counted."""

    def __init__(self, stack: Stack, ids: Sequence[str]) -> None:
        self._listener = stack.redis.pubsub()
        self._listener.subscribe(*(SAID_PREFIX + one for one in ids))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.heard = 0
        self.cpu_seconds = 0.0
        self._thread.start()

    def _run(self) -> None:
        began = time.thread_time()
        while not self._stopping.is_set():
            told = self._listener.get_message(timeout=0.05)
            self.heard += bool(told and told["type"] == "message")
        self.cpu_seconds = time.thread_time() - began

    def stop(self) -> float:
        """Seconds of CPU."""
        self._stopping.set()
        self._thread.join()
        self._listener.close()
        return self.cpu_seconds


def run(arena: Arena) -> Table:
    """Both questions, each in turns."""
    tokens, calls = arena.size(1_000, 40), arena.size(200, 10)
    stack = arena.stack()
    path = catalog(
        stack.folder,
        told={"slots": _ROWS, "step_ms": _STEP_MS},
        slow={"slots": _ROWS, "step_ms": _LONG_STEP_MS},
    )
    stack.environment |= {"LANEFLEET_CATALOG": str(path)}
    worker = stack.worker(f"{LANE},told,slow")
    samples = arena.interleave(
        {
            AT_END: lambda: _texts(stack, worker, tokens, stream=False),
            STREAMED: lambda: _texts(stack, worker, tokens, stream=True),
        }
    )
    samples |= arena.interleave({FIRST: lambda: _firsts(stack, calls)})
    samples |= arena.interleave(
        {
            ALONE: lambda: _echoes(stack, calls, beside=False),
            BESIDE: lambda: _echoes(stack, calls, beside=True),
        }
    )
    return _table({name: medians(taken) for name, taken in samples.items()}, samples, tokens)


def _table(found: dict[str, Sample], samples: dict[str, list[Sample]], tokens: int) -> Table:
    table = Table(
        "streams",
        f"{_ROWS} texts of {tokens} tokens, a step in {_STEP_MS} ms; echo beside steps of "
        f"{_LONG_STEP_MS} ms",
        [
            "",
            "tokens/s",
            "worker us/token",
            "redis us/token",
            "reader us/token",
            "p50 ms",
            "p95 ms",
        ],
    )
    table.samples = samples
    names = ("per_second", "worker_us", "redis_us", "reader_us", "p50_ms", "p95_ms")
    table.rows = [[name, *(one.get(column) for column in names)] for name, one in found.items()]
    cost = found[STREAMED]["all_us"] - found[AT_END]["all_us"]
    first = found[FIRST]["p50_ms"] - _STEP_MS
    wait = (found[BESIDE]["p95_ms"] - found[ALONE]["p95_ms"]) / _LONG_STEP_MS
    speed = found[BESIDE]["per_second"] * _LONG_STEP_MS / 1000 / _ROWS
    table.targets = [
        Target(4, "streaming, us a token", cost, _MOST_US, at_most=True),
        Target(4, "first token, ms more than its step", first, _MOST_FIRST_MS, at_most=True),
        Target(6, "p95 beside, in steps more than alone", wait, _MOST_STEPS, at_most=True),
        Target(6, "speed of the steps beside echo, of their own", speed, _LEAST_SPEED),
    ]
    return table


def _texts(stack: Stack, worker: Process, tokens: int, *, stream: bool) -> Sample:
    params = {**GREEDY, "max_tokens": tokens, "stream": stream}
    jobs = [Job("told", f"text {number}", params) for number in range(_ROWS)]
    ids = [job.id for job in jobs]
    reader = _Reader(stack, ids if stream else ids[:1])
    meter = Meter(stack.redis, [worker.pid])
    stack.publish(jobs)
    keys = [META_PREFIX + one for one in ids]
    wait_for(lambda: stack.redis.exists(*keys) == _ROWS, _LONGEST_SECONDS, "all texts")
    spent = meter.read()
    all_tokens, read = tokens * _ROWS, reader.stop()
    spans = (spent.worker_cpu, spent.redis_cpu, read)
    worker_us, redis_us, reader_us = (one / all_tokens * 1e6 for one in spans)
    return {
        "per_second": all_tokens / spent.wall,
        "worker_us": worker_us,
        "redis_us": redis_us,
        "reader_us": reader_us,
        "all_us": worker_us + redis_us + reader_us,
        "heard": float(reader.heard),
    }


def _echoes(stack: Stack, calls: int, *, beside: bool) -> Sample:
    """Calls one after the other, each timed from its publication to its result."""
    endless = [
        Job("slow", f"!endless {number}", {**GREEDY, "max_tokens": 50_000})
        for number in range(_ROWS if beside else 0)
    ]
    stack.publish(endless)
    if beside:
        wait_for(lambda: _lane(stack).rows == _ROWS, 30, "all rows")
    before, began = _lane(stack).tokens, time.perf_counter()
    echoes = [_echo() for _ in range(calls)]
    taken = [_time_of(stack, job, META_PREFIX + job.id) for job in echoes]
    said, seconds = _lane(stack).tokens - before, time.perf_counter() - began
    sample = _latencies(taken)
    if beside:
        sample["per_second"] = said / seconds
        _cancel(stack, endless)
    return sample


def _cancel(stack: Stack, jobs: Sequence[Job]) -> None:
    scripts = Scripts(stack.redis)
    for job in jobs:
        scripts.run("cancel", (), (job.id, 60, "canceled"))
    wait_for(lambda: _lane(stack).rows == 0, 30, "free rows")


def _lane(stack: Stack) -> LaneReport:
    [report] = stack.await_reports(1)
    return report.lanes["slow"]


def _firsts(stack: Stack, calls: int) -> Sample:
    """From a job's publication to its first token, which takes a step."""
    params = {**GREEDY, "max_tokens": 3, "stream": True}
    jobs = (Job("told", f"first {number}", params) for number in range(calls))
    taken = []
    for job in jobs:
        taken.append(
            _time_of(stack, job, scoped_channel(SAID_PREFIX + job.id, database_of(stack.redis)))
        )
        wait_for(lambda job=job: stack.redis.exists(META_PREFIX + job.id), 30, "its end")  # type: ignore[misc]
    return _latencies(taken)


def _latencies(seconds: Sequence[float]) -> Sample:
    return {f"p{share}_ms": percentile(seconds, share / 100) * 1000 for share in (50, 95)}


def _echo() -> Job:
    return Job(LANE, "x", {"sleep_ms": _BATCH_MS})


def _time_of(stack: Stack, job: Job, channel: str) -> float:
    """From a job's publication to the first that is heard of it."""
    with stack.redis.pubsub() as listener:
        listener.subscribe(channel)
        listener.get_message(timeout=10)
        began = time.perf_counter()
        stack.publish([job])
        while (told := listener.get_message(timeout=30)) and told["type"] != "message":
            pass
        assert told, f"nothing was heard on {channel}"
        return time.perf_counter() - began

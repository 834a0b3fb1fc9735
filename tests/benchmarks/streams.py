"""What streaming costs a token, and what a lane of batches pays beside a lane of steps.

A generator without a model says 2,000 tokens a second in 16 rows. The cost of streaming is the CPU
time of the worker, Redis and the API that has a reader of every text, less that of the same texts
sent whole. The readers' own is not counted. The lane beside it is `echo`, whose every batch takes
5 ms.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence

import orjson

from common.jobs.job import Job
from common.redis.connect import database_of
from common.redis.keys import META_PREFIX, SAID_PREFIX, scoped_channel
from common.redis.scripts import Scripts
from common.worker_report import LaneReport
from tests.benchmarks.arena import LANE, Arena, Sample
from tests.benchmarks.measure import Meter, cpu_seconds, medians, percentile, wait_for
from tests.benchmarks.report import Table, Target
from tests.support.generation import GREEDY, catalog
from tests.support.stack import ApiProcess, Process, Stack

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


class _Clients:
    """Asks for texts over HTTP on a connection each, and reads all of them on one thread."""

    def __init__(self, url: str, bodies: Sequence[dict[str, object]]) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._left = selectors.DefaultSelector()
        for body in bodies:
            one = socket.create_connection((host, int(port)))
            one.sendall(_request(orjson.dumps(body)))
            self._left.register(one, selectors.EVENT_READ)

    def read(self) -> None:
        """Read until every connection is closed by the API."""
        while self._left.get_map():
            ready = self._left.select(_LONGEST_SECONDS)
            if not ready:
                raise TimeoutError("the texts did not come")
            for key, _ in ready:
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if not one.recv(65_536):
                    self._left.unregister(one)
                    one.close()


def _request(body: bytes) -> bytes:
    head = "POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


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
    api = stack.api("told", LANEFLEET_MAX_WAIT_SECONDS=f"{_LONGEST_SECONDS:g}")
    samples = arena.interleave(
        {
            AT_END: lambda: _texts(stack, worker, api, tokens, stream=False),
            STREAMED: lambda: _texts(stack, worker, api, tokens, stream=True),
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
            "API us/token",
            "p50 ms",
            "p95 ms",
        ],
    )
    table.samples = samples
    names = ("per_second", "worker_us", "redis_us", "api_us", "p50_ms", "p95_ms")
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


def _texts(stack: Stack, worker: Process, api: ApiProcess, tokens: int, *, stream: bool) -> Sample:
    options = {"model": "told", "max_length": tokens, "temperature": 0, "stream": stream}
    serial = time.monotonic_ns()
    meter, before = Meter(stack.redis, [worker.pid]), cpu_seconds(api.process.pid)
    bodies = [{"text": f"text {serial} {number}", **options} for number in range(_ROWS)]
    _Clients(api.url, bodies).read()
    spent = meter.read()
    spans = (spent.worker_cpu, spent.redis_cpu, cpu_seconds(api.process.pid) - before)
    worker_us, redis_us, api_us = (one / (tokens * _ROWS) * 1e6 for one in spans)
    return {
        "per_second": tokens * _ROWS / spent.wall,
        "worker_us": worker_us,
        "redis_us": redis_us,
        "api_us": api_us,
        "all_us": worker_us + redis_us + api_us,
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

"""One side of a comparison: the worker, the API and the Redis of a checkout, started once.

Modules move between checkouts, so an arm is driven only by what is public:
its environment, its HTTP, its Redis keys. Jobs enter through its own API,
for which reason their records have the arm's own form.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import orjson
from redis import Redis

from api.cli.fleet import free_port
from tests.benchmarks.arena import LANE, PAYLOAD, start_redis
from tests.benchmarks.bulk import post_bulk
from tests.benchmarks.checkouts import Checkout
from tests.benchmarks.fronts import Front
from tests.benchmarks.load import Caller
from tests.benchmarks.measure import cpu_seconds, process_tree, redis_cpu_seconds, wait_for
from tests.support.stack import Process

Costs = dict[str, float]
"""By role, CPU in us a job."""
ROLES = {
    "drain": ("worker", "Redis"),
    "submit": ("front", "Redis"),
    "bulk": ("front", "Redis"),
    "latency": ("front", "worker", "Redis"),
}
_BODY = orjson.dumps({"model": LANE, "input": PAYLOAD, "cache": False})
_SECONDS = 60.0
_ENVIRONMENT = {
    "LANEFLEET_MODELS": LANE,
    "LANEFLEET_USE_GPU": "false",
    "LANEFLEET_EVENTS": "off",
    "LANEFLEET_LOG_LEVEL": "warning",
    "LANEFLEET_LOG_FORMAT": "console",
    "LANEFLEET_MAX_BACKLOG": "10000000",
    # Signals are for the worker itself: a supervised one has a session of its own, and went on.
    "LANEFLEET_SUPERVISED": "false",
}


class Arm:
    """The processes of one checkout over a Redis of their own."""

    def __init__(self, front: Front, worker: Process) -> None:
        self._front = front
        self._worker = worker
        self._caller = Caller(front.url)

    def run(self, benchmark: str, jobs: int) -> Costs:
        """One turn; leaves the worker going and the database empty."""
        turns: dict[str, Callable[[int], Costs]] = {
            "drain": self._drain,
            "submit": self._submit,
            "bulk": self._bulk,
            "latency": self._latency,
        }
        try:
            return turns[benchmark](jobs)
        finally:
            self._front.redis.flushdb()
            self._signal_worker(signal.SIGCONT)

    @property
    def redis_version(self) -> str:
        """Of the server that it runs over."""
        return str(self._front.redis.info("server")["redis_version"])  # type: ignore[index]

    def await_first_job(self) -> None:
        """Wait until a job comes back with its result, whatever the arm answers before."""
        wait_for(self._succeeds, _SECONDS, "the first job of an arm")

    def _drain(self, jobs: int) -> Costs:
        self._signal_worker(signal.SIGSTOP)
        self._front.redis.delete(f"lf:lane:{LANE}:stats")
        self._post_bulk(jobs)

        def work() -> None:
            self._signal_worker(signal.SIGCONT)
            wait_for(lambda: self._succeeded() >= jobs, _SECONDS, f"a drain of {jobs} jobs")

        return self._costs("drain", jobs, work)

    def _submit(self, jobs: int) -> Costs:
        self._signal_worker(signal.SIGSTOP)
        return self._costs("submit", jobs, lambda: self._front.submit(requests=jobs))

    def _bulk(self, jobs: int) -> Costs:
        self._signal_worker(signal.SIGSTOP)
        return self._costs("bulk", jobs, lambda: self._post_bulk(jobs))

    def _latency(self, jobs: int) -> Costs:
        def work() -> None:
            for _ in range(jobs):
                self._caller.submit_and_wait(_BODY)

        return self._costs("latency", jobs, work)

    def _costs(self, benchmark: str, jobs: int, work: Callable[[], object]) -> Costs:
        before = self._cpu_seconds()
        work()
        after = self._cpu_seconds()
        return {role: (after[role] - before[role]) / jobs * 1e6 for role in ROLES[benchmark]}

    def _cpu_seconds(self) -> dict[str, float]:
        return {
            "front": _tree_cpu_seconds(self._front.process),
            "worker": _tree_cpu_seconds(self._worker),
            "Redis": redis_cpu_seconds(self._front.redis),
        }

    def _post_bulk(self, jobs: int) -> None:
        if post_bulk(self._front, jobs) != jobs:
            raise RuntimeError(f"not all of {jobs} lines were accepted")

    def _succeeded(self) -> int:
        return int(self._front.redis.hget(f"lf:lane:{LANE}:stats", "succeeded") or 0)  # type: ignore[arg-type]

    def _succeeds(self) -> bool:
        for process in (self._front.process, self._worker):
            if not process.alive:
                raise RuntimeError(process.output()[-2_000:])
        headers = {"Content-Type": "application/json", "Prefer": "wait=10"}
        try:
            answer = httpx.post(
                f"{self._front.url}/v1/jobs", content=_BODY, headers=headers, timeout=20
            )
        except httpx.HTTPError:
            time.sleep(0.1)  # not listening yet
            return False
        return answer.status_code == 200 and answer.json()["state"] == "succeeded"

    def _signal_worker(self, number: signal.Signals) -> None:
        os.killpg(self._worker.pid, number)


@contextmanager
def open_arm(checkout: Checkout, folder: Path) -> Iterator[Arm]:
    """Start Redis, worker and API; ready once a job has come back."""
    folder.mkdir(parents=True)
    server = start_redis(folder / "server")
    port = free_port()
    shared = {
        **_ENVIRONMENT,
        **checkout.environment,
        "LANEFLEET_REDIS_URL": server.url,
        "LANEFLEET_STATE_DIR": str(folder / "state"),
        "LANEFLEET_PORT": str(port),
    }
    worker, front = (
        Process([sys.executable, "-m", name], shared, folder / f"{name}.log", checkout.root)
        for name in ("worker", "api")
    )
    try:
        worker.start()
        front.start()
        with Redis.from_url(server.url) as redis:
            arm = Arm(Front(f"http://127.0.0.1:{port}", front, redis, _BODY), worker)
            arm.await_first_job()
            yield arm
    finally:
        for process in (worker, front):
            if hasattr(process, "popen"):
                process.kill()
        server.stop()


def _tree_cpu_seconds(process: Process) -> float:
    return sum(map(cpu_seconds, process_tree(process.pid)))

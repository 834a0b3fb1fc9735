"""Real servers and processes for tests: Redis, the API, workers; and waiting for conditions."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.cli.fleet import free_port
from api.client import Client
from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.jobs.record import JobRecord
from common.redis.connect import connect
from common.redis.embedded_server import RedisServer, find_server_binary, start_server
from common.redis.keys import LaneKeys, job_key, meta_key
from common.settings import Settings
from common.worker_report import WorkerReport

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
IN_CI = bool(os.environ.get("CI"))
REDIS_KINDS = ("embedded", "redis-server")


def wait_until(condition: Callable[[], T], seconds: float = 20.0, what: str = "condition") -> T:
    """Poll until the condition is truthy and return it; fail the test after `seconds`.

    Looking takes a fifth of the time at most, as what is waited for needs the cores too.
    """
    deadline = time.monotonic() + seconds
    while (began := time.monotonic()) < deadline:
        value = condition()
        if value:
            return value
        time.sleep(max(0.02, 4 * (time.monotonic() - began)))
    pytest.fail(f"{what} did not come true within {seconds} s; last value {condition()!r}")


def redis_binary(kind: str) -> tuple[str, str]:
    """The server of this kind; a missing one skips locally and fails in CI."""
    found = find_server_binary() if kind == "embedded" else None
    if kind == "redis-server" and (path := shutil.which("redis-server")):
        found = (path, "redis-server")
    if found is None or (kind == "embedded" and found[1] != "embedded Valkey"):
        message = f"no {kind} on this machine"
        if IN_CI:
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def running_redis(folder: Path, kind: str = "embedded", *extra: str) -> Iterator[RedisServer]:
    """A Redis of its own with its data in `folder`."""
    server = start_server(folder, binary=redis_binary(kind), extra=extra)
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Process:
    """One child process with its log in a file."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    cwd: Path = ROOT
    popen: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> Process:
        """Start it."""
        with self.log.open("ab") as stream:
            self.popen = subprocess.Popen(
                self.command,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=self.cwd,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and reap."""
        if self.alive:
            self.popen.kill()
        self.popen.wait()

    def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM; returns the exit status."""
        if self.alive:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")


@dataclass
class Stack:
    """A Redis and the processes of one test over it."""

    redis_url: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    @cached_property
    def settings(self) -> Settings:
        """The settings that the processes have, as far as tests need them."""
        return Settings(redis_url=self.redis_url)  # type: ignore[arg-type]

    @cached_property
    def redis(self) -> Redis:
        """A client of the test's own, which finds a restarted server again by itself."""
        client = connect(self.redis_url, self.settings)
        client.set_retry(Retry(NoBackoff(), 1))
        return client

    def worker(self, models: str = "echo", **environment: str) -> Process:
        """Start a worker and wait until its models are loaded."""
        process = self._start("worker", ["-m", "worker"], models, environment)
        self.await_worker(process)
        return process

    def courier(self, models: str = "echo", **environment: str) -> Process:
        """Start a courier; what it is given waits until it serves."""
        return self._start("courier", ["-m", "worker", "--role", "courier"], models, environment)

    def await_worker(self, process: Process, seconds: float = 60.0) -> WorkerReport:
        """Wait for a worker's report with every model loaded."""

        def loaded() -> WorkerReport | None:
            assert process.alive, process.output()
            report = next((one for one in self.reports() if one.pid == process.pid), None)
            return report if report is not None and report.settled else None

        return wait_until(loaded, seconds, "a loaded worker")

    def api(
        self,
        models: str = "echo",
        watched: Path | None = None,
        port: int | None = None,
        **environment: str,
    ) -> ApiProcess:
        """Start an API and wait until it answers; `watched` is where its loop is reported on."""
        port = port or free_port()
        module = ["api"] if watched is None else ["tests.support.watched_api", str(watched)]
        process = self._start(
            "api", ["-m", *module], models, {"LANEFLEET_PORT": str(port), **environment}
        )
        url = f"http://127.0.0.1:{port}"
        api = ApiProcess(process, url, Client(url, timeout=30, retries=0))
        wait_until(lambda: api.answers(), 30, "the API")
        return api

    def publish(self, jobs: list[Job]) -> list[str]:
        """Publish jobs as the API does; returns their ids."""
        publish_many(self.redis, jobs)
        return [job.id for job in jobs]

    def record(self, job_id: str) -> JobRecord | None:
        """The job's record as it stands."""
        return JobRecord.read(job_id, *self.redis.mget(job_key(job_id), meta_key(job_id)))

    def states(self, ids: list[str]) -> dict[str, int]:
        """How many of these jobs are in each state."""
        found = self.redis.mget([key(one) for one in ids for key in (job_key, meta_key)] or ["-"])
        counts: dict[str, int] = {}
        for job_id, record, meta in zip(ids, found[::2], found[1::2], strict=False):
            job = JobRecord.read(job_id, record, meta)
            name = job.state.value if job else "unknown"
            counts[name] = counts.get(name, 0) + 1
        return counts

    def stats(self, lane: str = "echo") -> dict[str, int]:
        """The lane's counters."""
        found = self.redis.hgetall(LaneKeys.of(lane).stats)
        return {key.decode(): int(value) for key, value in found.items()}  # type: ignore[union-attr]

    def waiting(self, lane: str = "echo") -> int:
        """How many messages wait in the lane's bands."""
        return sum(int(self.redis.llen(band)) for band in LaneKeys.of(lane).bands)  # type: ignore[arg-type]

    def reports(self) -> list[WorkerReport]:
        """What each live worker says of itself."""
        keys = list(self.redis.scan_iter("lf:worker:*"))
        return [WorkerReport.load(one) for one in self.redis.mget(keys) if one] if keys else []  # type: ignore[union-attr]

    def await_reports(self, rounds: int = 2) -> list[WorkerReport]:
        """Wait until every live worker has reported so many times from now."""
        before = {one.pid: one.round for one in self.reports()}

        def reported() -> list[WorkerReport] | None:
            reports = self.reports()
            done = all(one.round >= before.get(one.pid, one.round) + rounds for one in reports)
            return reports if done else None

        return wait_until(reported, 30, "new reports")

    def close(self) -> None:
        """Kill whatever still runs."""
        for process in self.processes:
            process.kill()
        self.redis.close()

    def _start(
        self, name: str, arguments: list[str], models: str, environment: dict[str, str]
    ) -> Process:
        log = self.folder / f"{name}-{len(self.processes)}.log"
        process = Process(
            [sys.executable, *arguments],
            {
                "LANEFLEET_REDIS_URL": self.redis_url,
                "LANEFLEET_MODELS": models,
                "LANEFLEET_LOG_FORMAT": "console",
                "LANEFLEET_SUPERVISED": "false",
                "LANEFLEET_RETRY_BASE_SECONDS": "0.1",
                "LANEFLEET_STATE_DIR": str(self.folder / "state"),
                **self.environment,
                **environment,
            },
            log,
        )
        self.processes.append(process)
        return process.start()


@dataclass
class ApiProcess:
    """A running API and a client of it."""

    process: Process
    url: str
    client: Client
    headers: dict[str, str] = field(default_factory=dict)
    """What requests of the test's own should carry."""

    def samples(self) -> float:
        """How often it has looked at the lanes and workers."""
        text = httpx.get(f"{self.url}/metrics", headers=self.headers, timeout=10).text
        return float(text.partition("\nlanefleet_api_samples_total ")[2].partition("\n")[0])

    def await_samples(self, count: int = 2) -> None:
        """Wait until it has looked so many times from now: then it knows what is so now."""
        before = self.samples()
        wait_until(lambda: self.samples() >= before + count, 30, "samples")

    def answers(self) -> bool:
        """Whether it is up."""
        assert self.process.alive, self.process.output()
        try:
            return httpx.get(f"{self.url}/health", timeout=1).is_success
        except httpx.HTTPError:
            return False

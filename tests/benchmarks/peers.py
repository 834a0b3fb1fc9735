"""The contenders of a drain, all handled alike: pause, preload, resume, wait until done.

A paused process is stopped by signal with all its children, so that what is
preloaded waits for a process that is warm.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
from redis import Redis

from common.jobs.enqueue import publish_many
from common.jobs.job import Job
from common.jobs.message import build_message
from tests.benchmarks import roles
from tests.benchmarks.arena import LANE, PAYLOAD, Arena, Sample
from tests.benchmarks.measure import Meter, process_tree, wait_for
from tests.support.stack import ROOT, Process, Stack

_WARM_UP = 100
_CHUNK = 500
_BULL_SCRIPT = Path(__file__).with_name("bull.mjs")
_SECONDS = 240.0
_MOULD = "bench.mould"
"""A queue that no worker reads."""


class Contender(ABC):
    """A worker process of some kind over a database of its own."""

    def __init__(self, url: str, process: Process) -> None:
        self.redis = Redis.from_url(url)
        self.url = url
        self.process = process

    @abstractmethod
    def preload(self, jobs: int) -> None:
        """Put this many jobs into the queue."""

    @abstractmethod
    def done(self, jobs: int) -> bool:
        """Whether all that were preloaded have their results."""

    @abstractmethod
    def clear(self) -> None:
        """Forget the last round's results."""

    def pids(self) -> list[int]:
        """The processes that work."""
        return process_tree(self.process.pid)

    def warm_up(self) -> None:
        """Drain a few jobs, untimed; also proves that the process is up."""
        self.pause()
        self.preload(_WARM_UP)
        self.resume()
        wait_for(lambda: self.done(_WARM_UP), 60, f"warm-up of {self.process.command}")
        self.clear()

    def drain(self, jobs: int) -> Sample:
        """Preload, then time the drain."""
        self.pause()
        self.preload(jobs)
        meter = Meter(self.redis, self.pids())
        self.resume()
        wait_for(lambda: self.done(jobs), _SECONDS, f"drain by {self.process.command}")
        spent = meter.read()
        self.clear()
        return spent.per_job(jobs)

    def pause(self) -> None:
        """Stop the processes where they are."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        os.killpg(self.process.pid, signal.SIGCONT)


class LaneWorkers(Contender):
    """Our worker, or several, over one or more lanes."""

    def __init__(
        self,
        stack: Stack,
        lanes: tuple[str, ...] = (LANE,),
        workers: tuple[str, ...] = (LANE,),
        **environment: str,
    ) -> None:
        self.stack = stack
        self.lanes = lanes
        self.workers = [
            stack._start("worker", ["-m", "worker"], models, environment) for models in workers
        ]
        super().__init__(stack.redis_url, self.workers[0])

    def preload(self, jobs: int) -> None:
        names = [self.lanes[number % len(self.lanes)] for number in range(jobs)]
        for first in range(0, jobs, _CHUNK):
            part = [Job(name, PAYLOAD) for name in names[first : first + _CHUNK]]
            publish_many(self.redis, part, max_backlog=10_000_000)

    def warm_up(self) -> None:
        """Wait for the workers, which start side by side; then as others."""
        for worker in self.workers:
            self.stack.await_worker(worker)
        super().warm_up()

    def settled(self) -> int:
        """Jobs of all lanes that have succeeded since the last flush."""
        pipe = self.redis.pipeline(transaction=False)
        for lane in self.lanes:
            pipe.hget(f"lf:lane:{lane}:stats", "succeeded")
        return sum(int(one or 0) for one in pipe.execute())

    def done(self, jobs: int) -> bool:
        return self.settled() >= jobs

    def clear(self) -> None:
        self.redis.flushdb()

    def pids(self) -> list[int]:
        return [worker.pid for worker in self.workers]

    def pause(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGSTOP)

    def resume(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGCONT)


class WatchedLaneWorkers(LaneWorkers):
    """Ours with every event of every job sent, and a monitor that hears them."""

    def __init__(self, arena: Arena) -> None:
        stack = arena.stack()
        self.monitor = arena.peer("event-consumer", stack.redis_url)
        super().__init__(stack, LANEFLEET_EVENTS="on", LANEFLEET_EVENTS_PER_SECOND="10000000")

    def warm_up(self) -> None:
        """As others, once the monitor listens."""
        wait_for(lambda: self.redis.pubsub_numpat() >= 1, 30, "the monitor")
        super().warm_up()

    def drain(self, jobs: int) -> Sample:
        """As others; then checks that the monitor heard of each job."""
        self._jobs = jobs
        return super().drain(jobs)

    def clear(self) -> None:
        expected = getattr(self, "_jobs", _WARM_UP)
        wait_for(
            lambda: int(self.redis.get(roles.EVENTS_HEARD) or 0) >= expected,
            30,
            "events of every job",
        )
        super().clear()


class CeleryWorker(Contender):
    """Plain Celery: `solo`, or `prefork` with as many children as given."""

    def __init__(
        self, arena: Arena, pool: str, concurrency: int = 1, url: str | None = None
    ) -> None:
        url = url or arena.database()
        super().__init__(url, arena.peer("celery-worker", url, pool, str(concurrency)))
        self._app = roles.celery_app(url)
        self._ids: list[str] = []

    def preload(self, jobs: int) -> None:
        """Celery builds one message; the others are that one with ids of their own."""
        self._app.tasks["bench.echo"].apply_async((PAYLOAD,), queue=_MOULD)
        message = orjson.loads(self.redis.lpop(_MOULD))
        message["properties"]["delivery_info"]["routing_key"] = "celery"
        self._ids = [str(uuid4()) for _ in range(jobs)]
        self.redis.lpush("celery", *(_readdressed(message, one) for one in self._ids))

    def done(self, jobs: int) -> bool:
        if self.redis.llen("celery") or self.redis.hlen("unacked"):
            return False
        keys = [f"celery-task-meta-{one}" for one in self._ids]
        return int(self.redis.exists(*keys)) == jobs

    def clear(self) -> None:
        self.redis.delete(*(f"celery-task-meta-{one}" for one in self._ids))

    def results(self) -> int:
        """Results of jobs that somebody else put in, when nothing waits any more."""
        if self.redis.llen("celery") or self.redis.hlen("unacked"):
            return 0
        return sum(1 for _ in self.redis.scan_iter("celery-task-meta-*", count=5_000))

    def forget_results(self) -> None:
        """Delete all of them."""
        self.redis.delete(*self.redis.scan_iter("celery-task-meta-*", count=5_000))


def _readdressed(message: dict[str, Any], job_id: str) -> bytes:
    message["headers"] |= {"id": job_id, "root_id": job_id}
    message["properties"] |= {"correlation_id": job_id, "delivery_tag": job_id}
    return orjson.dumps(message)


class RawLoop(Contender):
    """The bare loop over our own messages: what nothing in Python over Redis goes below."""

    def __init__(self, arena: Arena) -> None:
        url = arena.database()
        super().__init__(url, arena.peer("raw-loop", url))

    def preload(self, jobs: int) -> None:
        for first in range(0, jobs, _CHUNK):
            messages = [build_message(Job(LANE, PAYLOAD)) for _ in range(min(_CHUNK, jobs - first))]
            self.redis.lpush(roles.RAW_LIST, *messages)

    def done(self, jobs: int) -> bool:
        return int(self.redis.get(roles.RAW_DONE) or 0) >= jobs

    def clear(self) -> None:
        self.redis.flushdb()


class BullWorker(Contender):
    """BullMQ at concurrency 64."""

    def __init__(self, arena: Arena, home: Path) -> None:
        self._home = home
        url = arena.database()
        process = Process(bull_command("worker", url), {"BULL_HOME": str(home)}, _log(arena))
        arena.processes.append(process)
        super().__init__(url, process.start())

    def preload(self, jobs: int) -> None:
        run_bull(self._home, "preload", self.url, jobs)

    def done(self, jobs: int) -> bool:
        return int(self.redis.zcard("bull:bench:completed")) >= jobs

    def clear(self) -> None:
        self.redis.flushdb()


def _log(arena: Arena) -> Path:
    return arena.folder / f"peer-{len(arena.processes)}.log"


def bull_home(arena: Arena) -> Path | None:
    """Where BullMQ is installed; None, with one printed line, where it cannot be."""
    home = arena.cache / "node"
    if not shutil.which("node"):
        return _skip_bull("no Node on this machine")
    if (home / "node_modules" / "bullmq").is_dir():
        return home
    npm = shutil.which("npm")
    if not arena.install_peers or not npm:
        return _skip_bull("it is not installed yet, and npm may not or cannot install it here")
    home.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", "bullmq@5"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=180)
    except (subprocess.SubprocessError, OSError) as exc:
        return _skip_bull(f"npm could not install it ({type(exc).__name__})")
    return home


def _skip_bull(why: str) -> None:
    print(f"  BullMQ is left out: {why}", file=sys.stderr)


def bull_command(role: str, url: str, *arguments: str) -> list[str]:
    """The command of one of `bull.mjs`' roles."""
    parts = urlsplit(url)
    where = [str(parts.hostname), str(parts.port), parts.password or "", parts.path.strip("/")]
    return [shutil.which("node") or "node", str(_BULL_SCRIPT), role, *where, *arguments]


def run_bull(home: Path, role: str, url: str, jobs: int) -> Sample:
    """Run a producer of BullMQ's to its end; returns its figures."""
    environment = {**os.environ, "BULL_HOME": str(home)}
    return _run_producer(bull_command(role, url, str(jobs)), environment)


def run_producer(role: str, url: str, jobs: int) -> Sample:
    """Run one of our Python producers to its end; returns its figures."""
    command = [sys.executable, "-m", "tests.benchmarks.roles", role, url, str(jobs)]
    return _run_producer(command, dict(os.environ))


def _run_producer(command: list[str], environment: dict[str, str]) -> Sample:
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS
    )
    if done.returncode:
        raise RuntimeError(f"{command[:3]} failed: {done.stderr[-500:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures

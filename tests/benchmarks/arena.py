"""The Redis all contenders share, a database for each, and turns in a fixed rotation.

One contender after the other, round by round, so that whatever else the
machine does falls on all of them alike.
"""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from redis import Redis

from common.redis.embedded_server import RedisServer, find_server_binary, start_server
from tests.support.stack import Process, Stack

Sample = dict[str, float]
LANE = "echo"
PAYLOAD = {"text": "x" * 1_000}
_DATABASES = 64


@dataclass
class Arena:
    """One run of benchmarks: its Redis, its sizes, its processes."""

    url: str
    folder: Path
    cache: Path
    runs: int = 5
    quick: bool = False
    full: bool = False
    install_peers: bool = True
    hurry: bool = False
    notes: list[str] = field(default_factory=list)
    stacks: list[Stack] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    _serial: Iterator[int] = field(default_factory=count)

    def size(self, usual: int, quick: int, full: int | None = None) -> int:
        """How many, by the form of this run."""
        if self.quick:
            return quick
        return full if self.full and full is not None else usual

    def database(self) -> str:
        """The URL of an empty database of the contender's own."""
        number = next(self._serial) % _DATABASES
        url = self.url.rpartition("/")[0] + f"/{number}"
        with Redis.from_url(url) as client:
            client.flushdb()
        return url

    def stack(self, **environment: str) -> Stack:
        """A fleet of ours over a database of its own."""
        folder = self.folder / f"stack-{len(self.stacks)}"
        folder.mkdir()
        fixed = {
            "LANEFLEET_USE_GPU": "false",
            "LANEFLEET_LOG_LEVEL": "warning",
            "LANEFLEET_MAX_BACKLOG": "10000000",
        }
        stack = Stack(self.database(), folder, {**fixed, **environment})
        self.stacks.append(stack)
        return stack

    def process(self, *command: str) -> Process:
        """Start a peer."""
        log = self.folder / f"peer-{len(self.processes)}.log"
        process = Process(list(command), {}, log)
        self.processes.append(process)
        return process.start()

    def peer(self, role: str, *arguments: str) -> Process:
        """Start a role of `roles.py`."""
        return self.process(sys.executable, "-m", "tests.benchmarks.roles", role, *arguments)

    def close(self) -> None:
        """End every process and forget the data; the next benchmark finds an empty server."""
        for stack in self.stacks:
            stack.close()
        for process in self.processes:
            process.kill()
        self.stacks.clear()
        self.processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with Redis.from_url(self.url) as client:
            client.flushall()

    def interleave(
        self,
        contenders: Mapping[str, Callable[[], Sample]],
        runs: int | None = None,
        seconds: float = 40.0,
    ) -> dict[str, list[Sample]]:
        """Everybody's turn, round after round; returns all samples by name.

        On a slow machine the rounds end early, so that all of them together
        stay under ten minutes; asking for a number of runs lifts that limit.
        """
        samples: dict[str, list[Sample]] = {name: [] for name in contenders}
        wanted, began, longest = runs or self.runs, time.monotonic(), 0.0
        for number in range(wanted):
            started = time.monotonic()
            if self.hurry and started - began + longest > seconds:
                self.notes.append(f"only {number} of {wanted} rounds fitted into {seconds:g} s.")
                break
            self._round(number, contenders, samples)
            longest = max(longest, time.monotonic() - started)
        return samples

    @staticmethod
    def _round(
        number: int,
        contenders: Mapping[str, Callable[[], Sample]],
        samples: dict[str, list[Sample]],
    ) -> None:
        for name, turn in contenders.items():
            gc.collect()
            began = time.monotonic()
            samples[name].append(turn())
            took = time.monotonic() - began
            print(f"  run {number + 1}, {name}: {took:.1f} s", file=sys.stderr, flush=True)


def start_redis(folder: Path, *extra: str) -> RedisServer:
    """A Redis without persistence; `redis-server` where there is one, else the embedded."""
    path = shutil.which("redis-server")
    binary = (path, "redis-server") if path else find_server_binary()
    return start_server(folder, binary=binary, extra=("--appendonly", "no", *extra))


@contextmanager
def open_arena(folder: Path, cache: Path, **options: object) -> Iterator[Arena]:
    """Start a Redis with enough databases, and hand out a place to work in."""
    server = start_redis(folder / "server", "--databases", str(_DATABASES))
    work = folder / "work"
    work.mkdir(parents=True)
    arena = Arena(server.url, work, cache, **options)  # type: ignore[arg-type]
    try:
        yield arena
    finally:
        arena.close()
        server.stop()

"""What a run cost: CPU and memory of processes from /proc, Redis' own from INFO.

CPU is read from `schedstat`, in nanoseconds, because the ticks of `stat`
are 10 ms long: a quarter of what a thousand jobs take.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

SUPPORTED = Path("/proc/self/stat").exists()
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a span of time cost, in seconds."""

    wall: float
    worker_cpu: float
    redis_cpu: float

    def per_job(self, jobs: int) -> dict[str, float]:
        """As the columns of most tables."""
        return {
            "jobs_per_second": jobs / self.wall,
            "worker_us": self.worker_cpu / jobs * 1e6,
            "redis_us": self.redis_cpu / jobs * 1e6,
            "redis_share": self.redis_cpu / self.wall,
        }


class Meter:
    """Counts from its making until `read`."""

    def __init__(self, redis: Redis, pids: Iterable[int]) -> None:
        self._redis = redis
        self._pids = list(pids)
        self._worker_before = sum(map(cpu_seconds, self._pids))
        self._redis_before = redis_cpu_seconds(redis)
        self._began = time.perf_counter()

    def read(self) -> Spent:
        """What was spent since."""
        wall = time.perf_counter() - self._began
        worker = sum(map(cpu_seconds, self._pids)) - self._worker_before
        return Spent(wall, worker, redis_cpu_seconds(self._redis) - self._redis_before)


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU that the living threads of this process have used."""
    try:
        spans = [
            int(one.read_text().split()[0]) for one in Path(f"/proc/{pid}/task").glob("*/schedstat")
        ]
    except OSError:
        spans = []
    return sum(spans) / 1e9 if spans else _cpu_ticks(pid) / _TICKS_PER_SECOND


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def redis_cpu_seconds(redis: Redis) -> float:
    """CPU that the server has used, user and system."""
    spent = redis.info("cpu")
    return float(spent["used_cpu_user"]) + float(spent["used_cpu_sys"])


def rss_mb(pid: int) -> float:
    """Resident memory, in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no memory; did it end?")


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll every 2 ms until true; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.002)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def medians(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Per field, the median over runs."""
    return {name: statistics.median(one[name] for one in samples) for name in samples[0]}

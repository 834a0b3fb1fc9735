"""The jobs of one lane that a shadow is to answer too, and what came of that.

Pure state, guarded by the lock of `WorkerState`. Bounded in jobs and bytes: what does not fit is
counted as dropped, and its job is none the worse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from common.metrics.histogram import Histogram
from worker.jobs.execution import Execution
from worker.jobs.served import Served

AGREEMENT_EDGES = (0.5, 0.9, 0.99, 0.999)
"""Upper edges of the buckets of agreement; equal first labels are 1, others 0."""


class ShadowLimits(NamedTuple):
    """What may wait for one shadow."""

    jobs: int = 256
    size: int = 64 * 2**20
    """In bytes of inputs and results."""


SHADOW_LIMITS = ShadowLimits()


class ShadowStats:
    """What one shadow of a lane has done; counters since the worker's start."""

    __slots__ = ("agreement", "dropped", "failed")

    def __init__(self) -> None:
        self.agreement = Histogram(AGREEMENT_EDGES)
        """Of each job that was compared. Written by the device thread, as `failed`."""
        self.failed = 0
        self.dropped = 0
        """Jobs that were not compared, because the shadow was behind. Written under the lock."""

    @property
    def compared(self) -> int:
        """Jobs that were compared."""
        return sum(self.agreement.counts)


class Kept(NamedTuple):
    """The input of a job, as it was before it was decoded."""

    value: Any
    blob: bytes | None


class ShadowJob(NamedTuple):
    """A job whose result was published."""

    kept: Kept
    params: Mapping[str, Any]
    result: bytes
    """The published result, JSON."""
    size: int
    """About how many bytes all of this takes."""

    @classmethod
    def of(cls, execution: Execution) -> ShadowJob:
        """One whose input was kept. Not under the lock: large JSON takes a while to be measured."""
        kept: Kept = execution.kept
        size = _size_of(kept.value) + len(kept.blob or b"") + len(execution.answer)
        return cls(kept, execution.params, execution.answer, size)


def _size_of(value: Any) -> int:
    if value is None or isinstance(value, str | bytes):
        return len(value or b"")
    try:
        return len(orjson.dumps(value))
    except TypeError:  # lone surrogates, or integers beyond 64 bits
        return len(str(value))


class Shadow:
    """The shadow of the model that serves a lane."""

    def __init__(self, model: str, stats: ShadowStats, limits: ShadowLimits) -> None:
        self.model = model
        self.stats = stats
        self.served: Served | None = None
        """Set while it is loaded; jobs are kept for it only then."""
        self._limits = limits
        self._waiting: deque[ShadowJob] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, executions: list[Execution]) -> None:
        """Keep the inputs of jobs that are about to be decoded, as many as there is room for."""
        if self.served is None:
            return
        room = max(0, self._limits.jobs - len(self._waiting))
        for execution in executions[:room]:
            execution.kept = Kept(execution.value, execution.blob)
        self.stats.dropped += max(0, len(executions) - room)

    def offer(self, job: ShadowJob) -> None:
        """Take a job whose result was published."""
        limits = self._limits
        full = len(self._waiting) >= limits.jobs or self._bytes + job.size > limits.size
        if full or self.served is None:
            self.stats.dropped += 1
            return
        self._waiting.append(job)
        self._bytes += job.size

    def take(self, most: int) -> list[ShadowJob]:
        """Remove the jobs that have waited longest."""
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._bytes -= sum(one.size for one in taken)
        return taken

    def leave(self) -> None:
        """Its model is no longer there: what waits is dropped."""
        self.served = None
        self.stats.dropped += len(self._waiting)
        self._waiting.clear()
        self._bytes = 0

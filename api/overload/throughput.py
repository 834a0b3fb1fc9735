"""The measured throughput of a lane.

A rate is measured only while more jobs wait than the workers can hold in one batch each: the
throughput of a lane with few arrivals does not show its capacity. It is kept per worker, so
that a change in the number of workers applies at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.worker_report import LaneReport

SETTLED = ("succeeded", "failed", "dead", "expired")
"""Counters of jobs that took time in a worker. Canceled ones do not: hundreds of thousands may
end in a moment, which does not measure how fast the next ones will run."""
_MEMORY_SECONDS = 15.0
"""A measurement this many seconds of work old has 1/e of the weight of a new one."""
_TRUST_SECONDS = 600.0
"""A rate that could not be measured for this long is discarded."""


class Throughput:
    """Jobs per second and worker of one lane. Pure: readings are passed in with their time."""

    def __init__(self) -> None:
        self._jobs = self._worker_seconds = 0.0
        self._last: tuple[float, int, bool] | None = None
        self._measured_at = -math.inf

    def observe(self, now: float, settled: int, *, busy: bool, workers: int) -> None:
        """Record the total of settled jobs, and whether the lane had more jobs at this time than
        its `workers` could hold.
        """
        last, self._last = self._last, (now, settled, busy)
        if last is None or not (busy and last[2]) or now <= last[0] or settled < last[1]:
            return
        seconds, done = now - last[0], settled - last[1]
        keep = math.exp(-seconds / _MEMORY_SECONDS)
        self._jobs = self._jobs * keep + done
        self._worker_seconds = self._worker_seconds * keep + seconds * workers
        self._measured_at = now

    def per_worker(self, now: float) -> float | None:
        """Jobs per second and worker; None while nothing was measured, or too long ago."""
        if not self._jobs or now - self._measured_at > _TRUST_SECONDS:
            return None
        return self._jobs / self._worker_seconds


def by_batch_times(said: Sequence[LaneReport]) -> float | None:
    """Jobs per second if every future batch is like those that ran."""
    return (
        sum(
            one.batched_jobs / one.batch_count / one.batch_seconds
            for one in said
            if one.batch_count and one.batch_seconds
        )
        or None
    )

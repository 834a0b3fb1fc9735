"""Measures where a lane's jobs and the device spend their time, stage by stage.

Cheap on purpose: a few clock readings a batch, about 0.1 us a job. Jobs that were decoded
together share one `Passage`; and where jobs of one reservation or batch waited for
different times, up to eight of them, evenly spaced, are the sample for all.

Each histogram is written by one thread, or under the engine's lock, and read by any: a
reading may lag by one batch at most.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar, get_args

from worker.jobs.passage import MeasuredJob, Passage

T = TypeVar("T")

Stage = Literal[
    "queue", "hold", "decode", "device_wait", "collate", "infer", "publish", "encode", "finish"
]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""In a job's order. Stages up to device_wait are counted per job, the others per batch.

queue        accepted -> reserved, in Redis
hold         in hand: waiting to be decoded, for its chunk, and for more jobs in the batch
decode       one input turned into an item
device_wait  decoded, while the device runs other batches
collate      items put together and sent to the device, where the handler has `collate`
infer        the forward pass
publish      waiting for the finisher
encode       outputs turned into JSON
finish       the script that publishes and acknowledges, until Redis answered
"""

BOUNDS = tuple(scale * step for scale in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10) for step in (1, 2, 5))
"""Upper edges of the buckets in seconds, 10 us to 50 s; the last bucket has no upper edge."""
_SAMPLES = 8
"""Jobs of one reservation or batch whose waits are measured; a sample of all."""


class Histogram:
    """A histogram of a stage's durations, with their count and sum."""

    __slots__ = ("count", "counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.count = 0
        self.seconds = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count this duration so many times."""
        self.counts[bisect_left(BOUNDS, seconds)] += times
        self.count += times
        self.seconds += seconds * times


def _samples(jobs: Sequence[T]) -> Iterator[tuple[T, int]]:
    """An evenly spaced sample, each with the number of jobs it represents; all of a few."""
    size = len(jobs)
    step = -(-size // _SAMPLES) or 1
    for first in range(0, size, step):
        times = min(step, size - first)
        yield jobs[first + times // 2], times


class LaneStages:
    """The stages of one lane."""

    def __init__(self) -> None:
        self.stages: dict[Stage, Histogram] = {stage: Histogram() for stage in STAGES}
        self.beside_seconds = 0.0
        """The part of the decoding time during which the device ran a batch."""
        self.jobs = 0
        """Jobs that ran; `room` is how many the caps would have allowed in as many batches."""
        self.room = 0.0
        self.cost = self.padded_cost = 0.0
        """In the handler's unit: the cost of the jobs, and their cost padded to one length."""

    def reserved(self, jobs: Sequence[MeasuredJob], now_ms: int) -> None:
        """Measure the queue stage of jobs reserved at this time of the Redis server's clock.

        Jobs on a later attempt are left out.
        """
        queue = self.stages["queue"]
        for job, times in _samples(jobs):
            if job.created_ms and job.attempt == 1:
                queue.observe(max(0, now_ms - job.created_ms) / 1000, times)

    def decoded(self, passage: Passage, size: int, beside_seconds: float) -> None:
        """Measure a decoded chunk. Call it holding the engine's lock: several threads decode."""
        self.stages["decode"].observe(passage.each, size)
        self.beside_seconds += beside_seconds

    def taken(self, jobs: Sequence[MeasuredJob], now: float, free_since: float) -> float | None:
        """Measure the waits of a batch that starts now; the device is free since `free_since`.

        Returns when the last of its jobs arrived.
        """
        last = None
        before: Passage | None = None
        together = 0
        for job, times in _samples(jobs):
            if job.passage is not before:
                self._waited(before, together, now, free_since)
                before, together = job.passage, 0
                if before is not None:
                    last = before.arrived if last is None else max(last, before.arrived)
            together += times
        self._waited(before, together, now, free_since)
        return last

    def _waited(self, passage: Passage | None, times: int, now: float, free_since: float) -> None:
        if passage is None:
            return
        busy = min(max(0.0, free_since - passage.decoded), now - passage.decoded)
        held = max(0.0, now - passage.arrived - passage.each - busy)
        self.stages["device_wait"].observe(busy, times)
        self.stages["hold"].observe(held, times)

    def ran(
        self, size: int, share_of_cap: float, cost: float, padded_cost: float, seconds: float
    ) -> None:
        """Count a batch that ran; share_of_cap is how full it was, 0 to 1."""
        self.stages["infer"].observe(seconds)
        self.jobs += size
        self.room += size / share_of_cap if share_of_cap else size
        self.cost += cost
        self.padded_cost += padded_cost

"""Where a lane's jobs and the device spend their time, stage by stage.

Cheap on purpose: a few clock readings a batch, about 0.1 us a job. Jobs that
were decoded together share one `Passage`; and where jobs of one reservation or
batch waited unlike times, up to eight of them, evenly spread, stand for all.

Each histogram is written by one thread, or under the engine's lock, and read
by whoever asks: a reading may lag by a batch, never more.
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
"""In a job's order. Those up to device_wait are counted by the job, the others by the batch.

queue        accepted -> reserved, in Redis
hold         in hand: waiting to be decoded, for its chunk, and for company
decode       one input turned into an item
device_wait  decoded, and the device busy with others
collate      items put together and sent to the device, where the handler has `collate`
infer        the forward pass
publish      waiting for the finisher
encode       outputs turned into JSON
finish       the script that publishes and acknowledges, until Redis answered
"""

BOUNDS = tuple(scale * step for scale in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10) for step in (1, 2, 5))
"""Upper edges of the buckets in seconds, 10 us to 50 s; above lies everything else."""
_SAMPLES = 8
"""Jobs of one reservation or batch whose waits are looked at; they stand for the others."""


class Histogram:
    """How often a stage took how long, and how long in all."""

    __slots__ = ("count", "counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.count = 0
        self.seconds = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """It took so long, so many times."""
        self.counts[bisect_left(BOUNDS, seconds)] += times
        self.count += times
        self.seconds += seconds * times


def _samples(jobs: Sequence[T]) -> Iterator[tuple[T, int]]:
    """Some of these, each with how many it stands for; all of them where they are few."""
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
        """How much of the decoding went on while the device ran a batch."""
        self.jobs = 0
        """Jobs that ran, and what the caps would have let run in as many batches."""
        self.room = 0.0
        self.cost = self.padded_cost = 0.0
        """In the handler's unit: what the jobs cost, and what they cost padded to one length."""

    def reserved(self, jobs: Sequence[MeasuredJob], now_ms: int) -> None:
        """These came in now by the Redis server's clock; whose lease lapsed once is left out."""
        queue = self.stages["queue"]
        for job, times in _samples(jobs):
            if job.created_ms and job.attempt == 1:
                queue.observe(max(0, now_ms - job.created_ms) / 1000, times)

    def decoded(self, passage: Passage, size: int, beside_seconds: float) -> None:
        """These were decoded together. Under the engine's lock, for several threads decode."""
        self.stages["decode"].observe(passage.each, size)
        self.beside_seconds += beside_seconds

    def taken(self, jobs: Sequence[MeasuredJob], now: float, free_since: float) -> float | None:
        """The device takes these, having been free since then. Returns when the last came in."""
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
        """A batch of so many jobs went through; share_of_cap is how full it was, 0 to 1."""
        self.stages["infer"].observe(seconds)
        self.jobs += size
        self.room += size / share_of_cap if share_of_cap else size
        self.cost += cost
        self.padded_cost += padded_cost

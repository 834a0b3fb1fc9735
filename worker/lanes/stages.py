"""Where a lane's jobs and the device spend their time, stage by stage.

Cheap on purpose: a few clock readings a batch, about 0.1 us a job. Jobs that
were decoded together share one `Passage`; and where jobs of one reservation or
batch waited unlike times, up to eight of them, evenly spread, stand for all.

Each histogram is written by one thread, or under the engine's lock, and read
by whoever asks: a reading may lag by a batch, never more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar, get_args

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


_RECENT_SECONDS = 10.0


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


class Passage:
    """Who was reserved and decoded together: when they came in, and were decoded."""

    __slots__ = ("arrived", "decoded", "each")

    def __init__(self, arrived: float, began: float, decoded: float, size: int) -> None:
        self.arrived = arrived
        self.decoded = decoded
        self.each = (decoded - began) / size
        """Seconds that one of them took to decode."""


class Passenger(Protocol):
    """What is counted: a job on its way."""

    created_ms: int
    attempt: int
    passage: Passage | None


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

    def reserved(self, jobs: Sequence[Passenger], now_ms: int) -> None:
        """These came in now by the Redis server's clock; whose lease lapsed once is left out."""
        queue = self.stages["queue"]
        for job, times in _samples(jobs):
            if job.created_ms and job.attempt == 1:
                queue.observe(max(0, now_ms - job.created_ms) / 1000, times)

    def decoded(self, passage: Passage, size: int, beside_seconds: float) -> None:
        """These were decoded together. Under the engine's lock, for several threads decode."""
        self.stages["decode"].observe(passage.each, size)
        self.beside_seconds += beside_seconds

    def taken(self, jobs: Sequence[Passenger], now: float, free_since: float) -> float | None:
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

    def report(self) -> dict[str, object]:
        """For the worker's report: counts and seconds since the start."""
        return {
            "stages": {
                stage: {"count": one.count, "seconds": round(one.seconds, 6)}
                for stage, one in self.stages.items()
                if one.count
            },
            "decode_beside_seconds": round(self.beside_seconds, 6),
            "jobs": self.jobs,
            "room": round(self.room, 1),
            "cost": round(self.cost, 1),
            "padded_cost": round(self.padded_cost, 1),
        }


Idle = Literal["no_work", "reserving", "decoding", "company", "loading", "publishing"]
IDLE: tuple[Idle, ...] = get_args(Idle)
"""What an idle device waits for.

no_work     nothing waits that we know of
reserving   the next jobs are on their way from Redis
decoding    jobs are in hand, and none is decoded yet
company     some are decoded, others are about to be (at most max_wait_ms)
loading     a model is being loaded or warmed up
publishing  the finisher is too far behind: Redis is slow or away
"""


class _Wait(NamedTuple):
    cause: Idle
    began: float
    ended: float


class DeviceTime:
    """What the device's thread did since it began: busy, idle by cause, and the rest.

    Written by that thread alone. Times are seconds on the steady clock.
    """

    def __init__(self, now: float) -> None:
        self.began = now
        self.free_since = now
        """When the last batch ended."""
        self._idle: dict[Idle, float] = dict.fromkeys(IDLE, 0.0)
        self._waiting: tuple[Idle, float] | None = None
        """What it waits for now, and since when."""
        self._last_wait: _Wait | None = None
        self._busy: tuple[float, float | None] = (0.0, None)
        """Seconds of ended batches, and when the running one began; replaced as one."""
        self.recent_busy = 0.0
        """The busy share of the last ten seconds or so."""
        self._marks: deque[tuple[float, float]] = deque([(now, 0.0)])

    def wait(self, cause: Idle, now: float) -> None:
        """It has nothing to do, for this reason."""
        self._waiting = (cause, now)

    def resume(self, now: float) -> None:
        """It looks again."""
        if self._waiting is None:
            return
        cause, began = self._waiting
        self._waiting = None  # first, so that no reader counts the wait twice
        self._idle[cause] += now - began
        self._last_wait = _Wait(cause, began, now)

    def took(self, arrived: float | None) -> None:
        """It has a batch, whose last jobs came in then: what it waited since was decoding."""
        wait, self._last_wait = self._last_wait, None
        if wait is None or arrived is None or wait.cause not in ("no_work", "reserving"):
            return
        seconds = max(0.0, wait.ended - max(wait.began, arrived))
        self._idle[wait.cause] -= seconds
        self._idle["decoding"] += seconds

    @property
    def is_busy(self) -> bool:
        """Whether a batch has the device."""
        return self._busy[1] is not None

    def start(self, now: float) -> None:
        """A batch has the device, perhaps behind another one."""
        if not self.is_busy:
            self._busy = (self._busy[0], now)

    def end(self, now: float) -> None:
        """The last one is done."""
        seconds, began = self._busy
        self._busy = (seconds + now - began if began is not None else seconds, None)
        self.free_since = now

    def busy_at(self, now: float) -> float:
        """Seconds of busy device until now; on any thread."""
        seconds, began = self._busy
        return seconds if began is None else seconds + max(0.0, now - began)

    def mark(self, now: float) -> None:
        """Keep `recent_busy` up to date; for one thread that calls it regularly."""
        marks, busy = self._marks, self.busy_at(now)
        while len(marks) > 1 and marks[1][0] <= now - _RECENT_SECONDS:
            marks.popleft()
        then, before = marks[0]
        marks.append((now, busy))
        self.recent_busy = (busy - before) / (now - then) if now > then else 0.0

    def idle_seconds(self, now: float) -> dict[Idle, float]:
        """Seconds it waited until now, by cause; on any thread. A moment's reading may lag."""
        idle, waiting = self._idle.copy(), self._waiting
        if waiting is not None:
            idle[waiting[0]] += max(0.0, now - waiting[1])
        return idle

    def report(self, now: float) -> dict[str, object]:
        """For the worker's report: seconds since the start; `other` is between batches."""
        busy, idle = self.busy_at(now), self.idle_seconds(now)
        seconds = now - self.began
        return {
            "seconds": round(seconds, 4),
            "busy": round(busy, 4),
            "idle": {cause: round(spent, 4) for cause, spent in idle.items()},
            "other": round(max(0.0, seconds - busy - sum(idle.values())), 4),
            "recent_busy": round(self.recent_busy, 4),
        }

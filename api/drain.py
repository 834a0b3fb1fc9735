"""How fast each lane drains, measured once a second, for whoever must say how long.

One pipelined trip per second and process reads every lane's counters, its
backlog and the live workers' reports; requests look at what the last trip
brought and make none of their own.

A rate is measured only while more waits than the workers can hold in one
batch each: what a lane drains when little arrives says nothing about what it
could. It is kept per worker, so that a worker more or less counts at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import redis.asyncio
import structlog
from redis.exceptions import RedisError

from api import tasks
from common.keys import BANDS, OVER_TOTALS, WORKERS, LaneKeys, worker_key

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 1.0
_TRIP_SECONDS = 1.0
_MEMORY_SECONDS = 15.0
"""What was measured this many seconds of work ago counts for 1/e of what was measured now."""
_TRUST_SECONDS = 600.0
"""A rate that could not be measured for this long is no longer believed."""
_SETTLED = ("succeeded", "failed", "dead", "expired")
"""Counters of jobs that took a place in a worker. Cancelled ones do not: they leave by the
hundred thousand in a moment, and that is no measure of how fast the next ones will run."""


class DrainRate:
    """Jobs per second and worker of one lane. Pure: readings come with their time."""

    def __init__(self) -> None:
        self._jobs = self._worker_seconds = 0.0
        self._last: tuple[float, int, bool] | None = None
        self._measured_at = -math.inf

    def observe(self, now: float, settled: int, *, busy: bool, workers: int) -> None:
        """Take a reading: the jobs settled since the lane began, and whether it had
        more to do at this moment than its `workers` could hold.
        """
        last, self._last = self._last, (now, settled, busy)
        if last is None or not (busy and last[2]) or now <= last[0] or settled < last[1]:
            return
        seconds, drained = now - last[0], settled - last[1]
        keep = math.exp(-seconds / _MEMORY_SECONDS)
        self._jobs = self._jobs * keep + drained
        self._worker_seconds = self._worker_seconds * keep + seconds * workers
        self._measured_at = now

    def per_worker(self, now: float) -> float | None:
        """Jobs per second and worker; None while nothing was drained, or too long ago."""
        if not self._jobs or now - self._measured_at > _TRUST_SECONDS:
            return None
        return self._jobs / self._worker_seconds


@dataclass(frozen=True, slots=True)
class LaneState:
    """What the last trip said of a lane."""

    waiting: tuple[int, ...] = (0, 0, 0, 0)
    """Jobs by band, the first served first."""
    leased: int = 0
    delayed: int = 0
    workers: int = 0
    """Live workers that can serve it, or will once its model is loaded."""
    loaded: int = 0
    """Those of them that have its model in memory."""
    load_errors: tuple[str, ...] = ()
    """What live workers say that could not load its model."""
    measured: float | None = None
    """Jobs per second all its workers drain together, measured; None when unknown."""
    estimated: float | None = None
    """The same by the workers' batch times, for as long as nothing is measured."""
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def backlog(self) -> int:
        """Jobs waiting, leased or delayed."""
        return sum(self.waiting) + self.leased + self.delayed

    @property
    def per_second(self) -> float | None:
        """Jobs per second: measured, else estimated, else None."""
        return self.measured or self.estimated

    def ahead(self, priority: int = 0) -> int:
        """Jobs waiting in this priority's band and those before it."""
        return sum(n for band, n in zip(BANDS, self.waiting, strict=True) if band <= priority)

    def start_seconds(self, priority: int = 0) -> float | None:
        """When a job published now should start, in seconds from now; None when unknown."""
        rate = self.per_second
        return None if rate is None else self.ahead(priority) / rate


_UNKNOWN = LaneState()


class DrainSampler:
    """Samples the lanes for as long as the process lives."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        lanes: Sequence[str],
        max_backlog: int,
        on_sample: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._keys = {lane: LaneKeys.of(lane) for lane in lanes}
        self._rates = {lane: DrainRate() for lane in lanes}
        self._max_backlog = max_backlog
        self._on_sample = on_sample
        self._names: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self.lanes: dict[str, LaneState] = {}
        """Per lane; empty until the first trip is back."""
        self.reports: list[dict[str, Any]] = []
        """What the live workers say of themselves."""
        self.trouble: Exception | None = None
        """Why the last trip failed; None when it did not."""

    async def start(self) -> None:
        """Take the first sample, for no longer than a second, and begin."""
        await self._once()
        self._task = asyncio.create_task(self._run(), name="drain-sampler")

    async def stop(self) -> None:
        """End."""
        await tasks.end(self._task)

    def lane(self, name: str) -> LaneState:
        """The lane as it was at most a second ago."""
        return self.lanes.get(name, _UNKNOWN)

    def per_second(self, lane: str) -> float | None:
        """Jobs per second that the lane drains: measured, else estimated, else None."""
        return self.lane(lane).per_second

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self._once()

    async def _once(self) -> None:
        try:
            async with asyncio.timeout(_TRIP_SECONDS):
                await self._sample()
            self.trouble = None
        except (RedisError, TimeoutError, OSError) as exc:
            if self.trouble is None:
                log.warning("lanes_unsampled", error=str(exc), exc_type=type(exc).__name__)
            self.trouble = exc
        except Exception as exc:
            log.exception("sampler_failed")
            self.trouble = exc
        self._on_sample()

    async def _sample(self) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.zrange(WORKERS, 0, -1)
        self._ask_reports(pipe, self._names)
        for keys in self._keys.values():
            for band in keys.bands:
                pipe.llen(band)
            pipe.hmget(keys.over, OVER_TOTALS)
            pipe.hlen(keys.unacked)
            pipe.zcard(keys.delayed)
            pipe.hgetall(keys.stats)
        names, reports, *replies = await pipe.execute()
        now = asyncio.get_running_loop().time()
        live = [name.decode() for name in names]
        if not set(live) <= set(self._names):  # somebody is new
            pipe = self._client.pipeline(transaction=False)
            self._ask_reports(pipe, live)
            (reports,) = await pipe.execute()
        self._names = live
        self.reports = [orjson.loads(report) for report in reports if report]
        self.lanes = {
            lane: self._lane(lane, now, replies[at * 8 : at * 8 + 8])
            for at, lane in enumerate(self._keys)
        }

    @staticmethod
    def _ask_reports(pipe: Any, names: list[str]) -> None:
        pipe.mget([worker_key(name) for name in names] or [worker_key("")])

    def _lane(self, lane: str, now: float, reply: Sequence[Any]) -> LaneState:
        *listed, beside, leased, delayed, stats = reply
        waiting = [n + int(more or 0) for n, more in zip(listed, beside, strict=True)]
        counters = {key.decode(): int(value) for key, value in stats.items()}
        said = [one["lanes"][lane] for one in self.reports if lane in one["lanes"]]
        able = [one for one in said if not one["error"]]
        loaded = [one for one in able if one["loaded"]]
        holding = sum(one["max_batch"] for one in loaded)
        rate, serving = self._rates[lane], max(1, len(loaded))
        rate.observe(
            now,
            sum(counters.get(name, 0) for name in _SETTLED),
            busy=bool(loaded) and sum(waiting) + leased > min(holding, self._max_backlog // 2),
            workers=serving,
        )
        each = rate.per_worker(now)
        return LaneState(
            waiting=tuple(waiting),
            leased=leased,
            delayed=delayed,
            workers=len(able),
            loaded=len(loaded),
            load_errors=tuple(one["error"] for one in said if one["error"]),
            measured=each * serving if able and each else None,
            estimated=_by_batch_times(able),
            counters=counters,
        )


def _by_batch_times(said: Sequence[dict[str, Any]]) -> float | None:
    """Jobs per second if every batch to come is like those that ran."""
    rate = 0.0
    for one in said:
        batches = sum(one["batches"].values())
        jobs = sum(int(size) * count for size, count in one["batches"].items())
        if batches and one["batch_seconds"]:
            rate += jobs / batches / one["batch_seconds"]
    return rate or None

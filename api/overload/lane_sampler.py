"""Measures each lane's throughput once a second, to estimate waiting times.

One pipelined sample per second and process reads every lane's counters, its backlog and the
live workers' reports; requests use the last sample and take none of their own. It also writes
a probe key, to learn whether Redis accepts writes.

A rate is measured only while more jobs wait than the workers can hold in one batch each: the
throughput of a lane with few arrivals does not show its capacity. It is kept per worker, so
that a change in the number of workers applies at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from api.background import tasks
from api.background.server_clock import ServerClock
from common.redis.keys import BANDS, OVER_TOTALS, PROBE, WORKERS, LaneKeys, worker_key
from common.worker_report import LaneReport, WorkerReport

log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 1.0
_TROUBLED_SECONDS = 0.25
_TIMEOUT_SECONDS = 1.0
DEEP_SECONDS = 0.5
"""Shorter waits are neither counted by tenant nor a reason to refuse."""
_PROBE_TTL_SECONDS = 60
_MEMORY_SECONDS = 15.0
"""A measurement this many seconds of work old has 1/e of the weight of a new one."""
_TRUST_SECONDS = 600.0
"""A rate that could not be measured for this long is discarded."""
_SETTLED = ("succeeded", "failed", "dead", "expired")
"""Counters of jobs that took time in a worker. Canceled ones do not: hundreds of thousands may
end in a moment, which does not measure how fast the next ones will run."""


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


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane in the last sample."""

    waiting: tuple[int, ...] = (0, 0, 0, 0)
    """Waiting jobs by band; the first band is served first."""
    leased: int = 0
    delayed: int = 0
    workers: int = 0
    """Live workers that serve it, or will once its model is loaded."""
    loaded: int = 0
    """How many of these workers have its model in memory."""
    load_errors: tuple[str, ...] = ()
    """The errors of live workers that could not load its model."""
    measured: float | None = None
    """Measured throughput of all its workers, jobs per second; None when unknown."""
    estimated: float | None = None
    """Throughput estimated from the workers' batch times, for use while none is measured."""
    tenants: Mapping[str, int] | None = None
    """Jobs waiting or leased by tenant; None while few jobs wait."""
    counters: Mapping[str, int] = field(default_factory=dict)
    breakers: Mapping[str, str] = field(default_factory=dict)
    """The records of its circuit breakers, as stored in Redis, by tenant; the lane's own is under
    an empty name."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failures of the model by tenant; a count begins anew after some time."""

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
        """Estimated seconds until a job published now starts; None when unknown."""
        rate = self.per_second
        return None if rate is None else self.ahead(priority) / rate


_UNKNOWN = LaneState()


class LaneSampler:
    """Samples the lanes while the process runs."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        lanes: Sequence[str],
        max_backlog: int,
    ) -> None:
        self._client = client
        self._keys = {lane: LaneKeys.of(lane) for lane in lanes}
        self._rates = {lane: Throughput() for lane in lanes}
        self._max_backlog = max_backlog
        self.on_sample: Callable[[], Awaitable[None]] | None = None
        """Called after each sample, also after one that failed."""
        self._names: list[str] = []
        self._deep: set[str] = set()
        """Lanes whose jobs are read by tenant: those where jobs wait for long."""
        self._task: asyncio.Task[None] | None = None
        self.lanes: dict[str, LaneState] = {}
        """Per lane; empty until the first sample is taken."""
        self.reports: list[WorkerReport] = []
        """The reports of the live workers."""
        self.server_ms = 0
        """The Redis server's clock at the last sample, Unix milliseconds."""
        self.clock = ServerClock()
        """The same clock, as it goes on."""
        self.trouble: Exception | None = None
        """Why the last sample failed, or that Redis accepts no writes; None on success."""
        self.readable = False
        """Whether the last sample could read, with or without its write."""
        self.samples = 0
        """Number of samples, failed ones included."""
        self.began = 0.0
        """When the last sample began, by the loop's clock."""

    async def start(self) -> None:
        """Take the first sample, for no longer than a second, and start the task."""
        await self._once()
        self._task = asyncio.create_task(self._run(), name="lane-sampler")

    async def stop(self) -> None:
        """End."""
        await tasks.end(self._task)

    def lane(self, name: str) -> LaneState:
        """The lane's state, at most a second old."""
        return self.lanes.get(name, _UNKNOWN)

    def per_second(self, lane: str) -> float | None:
        """The lane's throughput in jobs per second: measured, else estimated, else None."""
        return self.lane(lane).per_second

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TROUBLED_SECONDS if self.trouble else _INTERVAL_SECONDS)
            await self._once()

    async def _once(self) -> None:
        self.began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                self.trouble = await self._sample()
            self.readable = True
        except (RedisError, TimeoutError, OSError) as exc:
            self.readable, self.trouble = False, exc
        except Exception as exc:
            log.exception("sampler_failed")
            self.readable, self.trouble = False, exc
        if self.on_sample:
            try:
                await self.on_sample()
            except Exception:
                log.exception("sample_unused")
        self.samples += 1

    async def _sample(self) -> Exception | None:
        """Read everything; returns the error of the write where Redis accepts none."""
        pipe = self._client.pipeline(transaction=False)
        pipe.set(PROBE, 1, ex=_PROBE_TTL_SECONDS)
        pipe.time()
        pipe.zrange(WORKERS, 0, -1)
        self._ask_reports(pipe, self._names)
        for lane, keys in self._keys.items():
            for band in keys.bands:
                pipe.llen(band)
            pipe.hmget(keys.over, OVER_TOTALS)
            pipe.hlen(keys.unacked)
            pipe.zcard(keys.delayed)
            pipe.hgetall(keys.stats)
            pipe.hgetall(keys.breaker)
            pipe.hgetall(keys.failures)
            if lane in self._deep:
                pipe.hgetall(keys.tenants)
            else:
                pipe.exists(keys.tenants)
        written, *replies = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        await self._take(replies)
        return written if isinstance(written, Exception) else None

    async def _take(self, replies: list[Any]) -> None:
        (seconds, micros), names, reports, *of_lanes = replies
        self.server_ms = seconds * 1000 + micros // 1000
        self.clock.read(self.server_ms)
        now = asyncio.get_running_loop().time()
        live = [name.decode() for name in names]
        if not set(live) <= set(self._names):  # a worker is new
            pipe = self._client.pipeline(transaction=False)
            self._ask_reports(pipe, live)
            (reports,) = await pipe.execute()
        self._names = live
        self.reports = [WorkerReport.load(report) for report in reports if report]
        self.lanes = {
            lane: self._lane(lane, now, of_lanes[at * 11 : at * 11 + 11])
            for at, lane in enumerate(self._keys)
        }
        self._deep = {
            name
            for name, lane in self.lanes.items()
            if (lane.start_seconds(9) or 0) >= DEEP_SECONDS
        }

    @staticmethod
    def _ask_reports(pipe: Any, names: list[str]) -> None:
        pipe.mget([worker_key(name) for name in names] or [worker_key("")])

    def _lane(self, lane: str, now: float, reply: Sequence[Any]) -> LaneState:
        *listed, beside, leased, delayed, stats, breakers, failures, tenants = reply
        waiting = [n + int(more or 0) for n, more in zip(listed, beside, strict=True)]
        by_tenant = tenants if isinstance(tenants, dict) else None
        counters = _counts(stats)
        said = [one.lanes[lane] for one in self.reports if lane in one.lanes]
        able = [one for one in said if not one.error]
        loaded = [one for one in able if one.loaded]
        holding = sum(one.max_batch for one in loaded)
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
            load_errors=tuple(one.error for one in said if one.error),
            measured=each * serving if able and each else None,
            estimated=_by_batch_times(able),
            tenants=None if by_tenant is None else _counts(by_tenant),
            counters=counters,
            breakers=_records(breakers),
            failures=_counts(failures),
        )


def _counts(found: Mapping[bytes, bytes]) -> dict[str, int]:
    return {key.decode(): int(value) for key, value in found.items()}


def _records(found: Mapping[bytes, bytes]) -> dict[str, str]:
    """By tenant, of `state` and `state:<tenant>`."""
    return {
        name[6:].decode(): text.decode()
        for name, text in found.items()
        if name.startswith(b"state")
    }


def _by_batch_times(said: Sequence[LaneReport]) -> float | None:
    """Jobs per second if every future batch is like those that ran."""
    return (
        sum(
            one.batched_jobs / one.batch_count / one.batch_seconds
            for one in said
            if one.batch_count and one.batch_seconds
        )
        or None
    )

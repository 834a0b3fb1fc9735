"""Looks at every lane once a second: its demand, and its throughput to estimate waiting times.

One pipelined sample per second and process reads every lane's counters, its backlog and the
live workers' reports; requests that submit use the last sample and take none of their own. It
also writes a probe key, to learn whether Redis accepts writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from api.background.server_clock import ServerClock
from api.overload.lane_state import ColdStarts, LaneState
from api.overload.oldest_jobs import OldestJobs
from api.overload.throughput import SETTLED, Throughput, by_batch_times
from common.redis.ending import end_tasks
from common.redis.keys import COLD_STARTS, OVER_TOTALS, PROBE, WORKERS, LaneKeys, worker_key
from common.worker_report import WorkerReport

log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 1.0
_TROUBLED_SECONDS = 0.25
_TIMEOUT_SECONDS = 1.0
DEEP_SECONDS = 0.5
"""Shorter waits are neither counted by tenant nor a reason to refuse."""
_PROBE_TTL_SECONDS = 60
_REPLIES = 13
"""Of each lane in a sample."""

_UNKNOWN = LaneState()


class LaneSampler:
    """Samples the lanes while the process runs."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        lanes: Sequence[str],
        max_backlog: int,
        cold_starts: ColdStarts | None = None,
    ) -> None:
        self._client = client
        self.cold_starts = cold_starts or ColdStarts({}, 0.0)
        self._oldest = OldestJobs(client)
        self._turn = asyncio.Lock()
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
        await end_tasks(self._task)

    def lane(self, name: str) -> LaneState:
        """The lane's state, at most a second old."""
        return self.lanes.get(name, _UNKNOWN)

    def per_second(self, lane: str) -> float | None:
        """The lane's throughput in jobs per second: measured, else estimated, else None."""
        return self.lane(lane).per_second

    async def refresh(self) -> None:
        """Take a sample that begins after this call; calls at the same time share one. Whether it
        could read is in `readable`.
        """
        called = asyncio.get_running_loop().time()
        async with self._turn:
            if self.began < called:
                await self._once()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TROUBLED_SECONDS if self.trouble else _INTERVAL_SECONDS)
            await self.refresh()

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
        pipe.hgetall(COLD_STARTS)
        now_ms = self.clock.now_ms()
        for lane, keys in self._keys.items():
            for band in keys.bands:
                pipe.llen(band)
            pipe.hmget(keys.over, OVER_TOTALS)
            pipe.hlen(keys.unacked)
            pipe.zcard(keys.delayed)
            pipe.zcount(keys.delayed, "-inf", now_ms + self.cold_starts.seconds(lane) * 1000)
            pipe.zcard(keys.dead)
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
        (seconds, micros), names, reports, cold_starts, *of_lanes = replies
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
        self.cold_starts.recall(cold_starts)
        lanes = {
            lane: self._lane(lane, now, of_lanes[at * _REPLIES : (at + 1) * _REPLIES])
            for at, lane in enumerate(self._keys)
        }
        ages = await self._oldest.ages([name for name, lane in lanes.items() if any(lane.waiting)])
        self.lanes = lanes | {
            name: replace(lanes[name], oldest_age_seconds=age) for name, age in ages.items()
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
        *listed, over, leased, delayed, due, dead, stats, breakers, failures, tenants = reply
        beside = [int(count or 0) for count in over]
        waiting = [n + more for n, more in zip(listed, beside, strict=True)]
        by_tenant = tenants if isinstance(tenants, dict) else None
        counters = _counts(stats)
        said = [one.lanes[lane] for one in self.reports if lane in one.lanes]
        able = [one for one in said if not one.error]
        loaded = [one for one in able if one.loaded]
        holding = sum(one.max_batch for one in loaded)
        rate, serving = self._rates[lane], max(1, len(loaded))
        rate.observe(
            now,
            sum(counters.get(name, 0) for name in SETTLED),
            busy=bool(loaded) and sum(waiting) + leased > min(holding, self._max_backlog // 2),
            workers=serving,
        )
        each = rate.per_worker(now)
        return LaneState(
            waiting=tuple(waiting),
            beside=sum(beside),
            leased=leased,
            delayed=delayed,
            due=due,
            cold_start_seconds=self.cold_starts.seconds(lane),
            dead=dead,
            reported=len(said),
            workers=len(able),
            loaded=len(loaded),
            load_errors=tuple(one.error for one in said if one.error),
            measured=each * serving if able and each else None,
            estimated=by_batch_times(able),
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

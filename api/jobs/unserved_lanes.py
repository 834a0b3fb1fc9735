"""Looks after the lanes that no live worker has: at 0 replicas nobody else would.

What is due is promoted, expired leases return, followers and jobs past their deadline are
settled; so whatever is in such a lane ends, or becomes demand. The scripts are the workers' own:
each rechecks by the server's clock, so several processes may call them at once. They seldom do, as
each call of `reap` leaves its time, and who finds it fresh goes on to the next lane.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from api.overload.lane_sampler import LaneSampler
from common.jobs.script_calls import ExpireCall, ReapCall
from common.redis.ending import end_tasks
from common.redis.keys import COLD_STARTS, LaneKeys
from common.redis.scripts import AsyncScripts
from common.redis.trouble import TROUBLE
from common.settings import Settings

log = structlog.get_logger(__name__)

_LIMIT = 200
"""Jobs that one call of a script moves or looks at: the middle of a list of 200,000 takes 33 ms."""
_REAPS = 5
"""Most calls of `reap` for one lane in a round."""
_AFTER_TROUBLE_SECONDS = 2.0
"""After an outage live workers report first, and renew what expired during it."""
_SHORTEST_SECONDS = 0.05
_FRESH = 0.8
"""Share of the interval within which what somebody else did is enough."""


@dataclass(frozen=True, slots=True)
class CarePolicy:
    """The settings that the scripts need."""

    interval_seconds: float
    window: int
    grace_ms: int
    patience_ms: int
    looks_per_second: int

    @classmethod
    def of(cls, settings: Settings) -> CarePolicy:
        """The policy of a process with these settings."""
        return cls(
            settings.reap_interval_seconds,
            settings.tenant_window_jobs,
            settings.grace_ms,
            settings.patience_ms,
            settings.expire_jobs_per_second,
        )


@dataclass(slots=True)
class _Pass:
    """How far a lane's lists have been looked through for deadlines."""

    lists: deque[tuple[int, str]] = field(default_factory=deque)
    """Band, and the tenant whose jobs beside it, or ''."""
    index: int = 0


class UnservedLanes:
    """Does so for as long as the process lives."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        sampler: LaneSampler,
        result_ttl: Callable[[str], int],
        policy: CarePolicy,
    ) -> None:
        self._client = client
        self._scripts = AsyncScripts(client)
        self._sampler = sampler
        self._result_ttl = result_ttl
        self._policy = policy
        self._passes: dict[str, _Pass] = {}
        self._due_at: dict[str, float] = {}
        """Lanes with a job that falls due before the next round would come by: when, steady."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="unserved-lanes")

    async def stop(self) -> None:
        """End."""
        await end_tasks(self._task)

    async def _run(self) -> None:
        pause = self._policy.interval_seconds
        while True:
            await asyncio.sleep(pause)
            try:
                pause = await self.look() if self._sampler.trouble is None else pause
            except RedisError as exc:
                TROUBLE.note("looking after lanes without a worker", exc)
                pause = _AFTER_TROUBLE_SECONDS
            except Exception:
                log.exception("unserved_lanes_failed")
                pause = _AFTER_TROUBLE_SECONDS

    async def look(self) -> float:
        """One round; returns the seconds until the next. May raise RedisError."""
        await self._keep_cold_starts()
        lanes = [
            name for name, lane in self._sampler.lanes.items() if lane.backlog and not lane.reported
        ]
        self._passes = {lane: one for lane, one in self._passes.items() if lane in lanes}
        now, due_at = time.monotonic(), self._due_at
        self._due_at = {}
        for lane in await self._neglected(lanes):
            await self._reap(lane)
            await self._expire(lane)
            due_at.pop(lane, None)
        for lane, at in due_at.items():
            if at > now:
                self._due_at[lane] = at
            elif lane in lanes:
                await self._reap(lane)
        soonest = min(self._due_at.values(), default=math.inf) - time.monotonic()
        return max(_SHORTEST_SECONDS, min(self._policy.interval_seconds, soonest))

    async def _keep_cold_starts(self) -> None:
        news = self._sampler.cold_starts.news(self._sampler.reports)
        if news:
            await self._client.hset(COLD_STARTS, mapping=dict[Any, Any](news))

    async def _neglected(self, lanes: Sequence[str]) -> list[str]:
        """Those of these lanes that nobody has looked after of late."""
        if not lanes:
            return []
        pulses = await self._client.mget([LaneKeys.of(lane).pulse for lane in lanes])
        fresh_ms = self._sampler.clock.now_ms() - self._policy.interval_seconds * _FRESH * 1000
        return [
            lane
            for lane, pulse in zip(lanes, cast("list[bytes | None]", pulses), strict=True)
            if pulse is None or int(pulse) < fresh_ms
        ]

    async def _reap(self, lane: str) -> None:
        policy, due_ms = self._policy, -1
        keys, ttl = LaneKeys.of(lane).as_list(), self._result_ttl(lane)
        call = ReapCall(lane, _LIMIT, ttl, policy.window, policy.grace_ms, policy.patience_ms)
        for _ in range(_REAPS):
            reaped, promoted, due_ms = await self._scripts.run("reap", keys, call)
            if reaped:
                log.warning("leases_reaped", lane=lane, jobs=reaped)
            if max(reaped, promoted) < _LIMIT:
                break
        if 0 <= due_ms < policy.interval_seconds * 1000:
            self._due_at[lane] = time.monotonic() + due_ms / 1000

    async def _expire(self, lane: str) -> None:
        """Go on looking for deadlines that passed, from where the last round ended."""
        keys, ttl = LaneKeys.of(lane).as_list(), self._result_ttl(lane)
        going = self._passes.setdefault(lane, _Pass())
        looks, settled = int(self._policy.looks_per_second * self._policy.interval_seconds), 0
        if looks and not going.lists:
            going.lists, going.index = await self._lists(lane), 0
        while looks > 0 and going.lists:
            band, tenant = going.lists[0]
            limit = min(looks, _LIMIT)
            call = ExpireCall(lane, ttl, band, tenant, going.index, limit)
            index, ended, _ = await self._scripts.run("expire", keys, call)
            going.index, settled, looks = max(index, 0), settled + ended, looks - limit
            if index < 0:
                going.lists.popleft()
        if settled:
            log.info("jobs_expired_without_worker", lane=lane, jobs=settled)

    async def _lists(self, lane: str) -> deque[tuple[int, str]]:
        lists = deque((band, "") for band in range(1, 5))
        if self._sampler.lane(lane).beside:
            found = cast("list[bytes]", await self._client.hkeys(LaneKeys.of(lane).over))
            for name in found:
                band, _, tenant = name.decode().partition(":")
                if tenant:
                    lists.append((int(band), tenant))
        return lists

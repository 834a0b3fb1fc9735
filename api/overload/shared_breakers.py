"""The circuit breakers of all lanes, shared by the replicas through Redis.

Each replica proposes the change that the rules (api/overload/breaker.py) give after a sample;
a script accepts the first proposal and refuses the others, whose replicas read the new state
with their next sample.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import cast

import redis.asyncio
import structlog

from api.overload.breaker import Breaker, Policy, Reading, Record, State
from api.overload.lane_sampler import LaneSampler, LaneState
from common.jobs.script_calls import BreakerMove
from common.redis.keys import LaneKeys
from common.redis.scripts import AsyncScripts

log = structlog.get_logger(__name__)


class Breakers:
    """Updates the breakers after each sample; lets probes through."""

    def __init__(self, client: redis.asyncio.Redis, policy: Policy, lanes: Iterable[str]) -> None:
        self._client = client
        self._scripts = AsyncScripts(client)
        self._policy = policy
        self._breakers = {lane: Breaker(policy) for lane in lanes}
        self.records: dict[str, Record] = {lane: Record() for lane in self._breakers}
        """The records in Redis at the last sample, or as changed by this process since."""
        self._texts = dict.fromkeys(self._breakers, "")

    async def advance(self, sampler: LaneSampler) -> None:
        """Apply a sample to the breakers; may raise RedisError."""
        for lane, breaker in self._breakers.items():
            state = sampler.lane(lane)
            self._texts[lane] = state.breaker
            record = self.records[lane] = Record.parse(state.breaker)
            following = breaker.observe(record, _reading(sampler.server_ms, state))
            if following is not None:
                await self._move(lane, following)

    async def take_probe(self, lane: str) -> bool:
        """Take a probe; whether one more job may be tried."""
        keys, args = (
            (LaneKeys.of(lane).breaker,),
            BreakerMove(self._texts[lane], "", self._policy.probes),
        )
        return bool(await self._scripts.run("move_breaker", keys, args))

    async def reset(self, lane: str) -> Record:
        """Close it, and count only failures from now on. May raise RedisError."""
        found = cast("bytes | None", await self._client.hget(LaneKeys.of(lane).breaker, "state"))
        self._texts[lane] = found.decode() if found else ""
        await self._move(lane, Record(since_ms=int(time.time() * 1000)))
        return self.records[lane]

    async def _move(self, lane: str, following: Record) -> None:
        record, text = self.records[lane], following.text()
        args = BreakerMove(self._texts[lane], text)
        if not await self._scripts.run("move_breaker", (LaneKeys.of(lane).breaker,), args):
            return
        self.records[lane], self._texts[lane] = following, text
        if following.state is not record.state:
            tell = log.warning if following.state is State.OPEN else log.info
            tell("breaker_moved", lane=lane, state=following.state, openings=following.openings)


def _reading(server_ms: int, state: LaneState) -> Reading:
    counters = state.counters
    return Reading(
        server_ms,
        counters.get("succeeded", 0),
        counters.get("model_failed", 0),
        unloadable=bool(state.load_errors) and not state.workers,
    )

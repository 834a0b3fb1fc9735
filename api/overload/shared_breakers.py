"""The circuit breakers of all lanes, shared by the replicas through Redis.

Each replica proposes the change that the rules (api/overload/breaker.py) give after a sample;
a script accepts the first proposal and refuses the others, whose replicas read the new state
with their next sample.

A tenant's breaker is judged by its failures and by the successes of the whole lane, which are
counted anyway: it opens where its failures alone would have opened the lane's. It closes only
with a success among the probes that this process let through; a replica that ends leaves them to
the next round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

import redis.asyncio
import structlog

from api.background.server_clock import ServerClock
from api.overload.breaker import Breaker, Policy, Reading, Record, State
from api.overload.lane_sampler import LaneSampler
from api.overload.lane_state import LaneState
from common.jobs.job import Job
from common.jobs.script_calls import BreakerMove
from common.redis.keys import LaneKeys, meta_key
from common.redis.scripts import AsyncScripts

log = structlog.get_logger(__name__)

_PROBES_WATCHED = 8
"""Of one tenant and process: the last ones."""
_STATUS_BYTES = 24
_CLOSED = Record()
_SUCCESS = b'{"status":"SUCCESS"'


class LaneBreakers:
    """What this process knows of the breakers of one lane, by tenant; '' is the lane's own."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.breakers: dict[str, Breaker] = {"": Breaker(policy)}
        self.records: dict[str, Record] = {"": Record()}
        self.texts: Mapping[str, str] = {}
        self.probes: dict[str, deque[str]] = {}
        """The jobs let through as probes, by tenant."""
        self._last: tuple[Reading, Mapping[str, int]] | None = None

    def observe(self, now_ms: int, state: LaneState, proven: set[str]) -> dict[str, Record]:
        """The records' next values, of those that change; `proven` are tenants whose probe
        succeeded."""
        self.texts = state.breakers
        self.records = {name: Record.parse(text) for name, text in state.breakers.items()}
        own = self.records.setdefault("", Record())
        barred = {
            name
            for name, record in self.records.items()
            if name and record.state is not State.CLOSED
        }
        last = self._last[1] if self._last else state.failures
        fresh = {tenant: _more(n, last.get(tenant, 0)) for tenant, n in state.failures.items()}
        reading = replace(_reading(now_ms, state), by_tenant=fresh, barred=barred)
        following = {"": self.breakers[""].observe(own, reading)}
        for tenant in self._watched(state):
            record = self.records.setdefault(tenant, Record())
            failed = state.failures.get(tenant, 0)
            seen = Reading(now_ms, reading.succeeded, failed, proven=tenant in proven)
            following[tenant] = self._of(tenant).observe(record, seen)
        self._last = reading, state.failures
        return {name: record for name, record in following.items() if record is not None}

    def _watched(self, state: LaneState) -> set[str]:
        """The tenants that fail, or failed; the breakers of others are forgotten."""
        watched = (state.failures.keys() | self.records.keys()) - {""}
        for tenant in self.breakers.keys() - watched - {""}:
            del self.breakers[tenant]
        for tenant in list(self.probes):
            if self.records.get(tenant, _CLOSED).state is not State.HALF_OPEN:
                del self.probes[tenant]
        return watched

    def _of(self, tenant: str) -> Breaker:
        found = self.breakers.get(tenant)
        if found is None:
            found = self.breakers[tenant] = Breaker(self._policy)
            if self._last:  # its failures until now are new, but for what was seen before
                reading, failures = self._last
                before = Reading(reading.now_ms, reading.succeeded, failures.get(tenant, 0))
                found.observe(Record(), before)
        return found


class Breakers:
    """Updates the breakers after each sample; lets probes through."""

    def __init__(self, client: redis.asyncio.Redis, policy: Policy, lanes: Iterable[str]) -> None:
        self._client = client
        self._scripts = AsyncScripts(client)
        self._policy = policy
        self._lanes = {lane: LaneBreakers(policy) for lane in lanes}
        self._clock = ServerClock()

    @property
    def records(self) -> dict[str, Record]:
        """By lane, its own record at the last sample, or as changed by this process since."""
        return {lane: one.records[""] for lane, one in self._lanes.items()}

    def record(self, lane: str) -> Record:
        """The lane's own record."""
        return self._lanes[lane].records[""]

    def count(self, lane: str) -> dict[State, int]:
        """How many of the lane's breakers, its own and its tenants', are in each state."""
        states = [record.state for record in self._lanes[lane].records.values()]
        return {state: states.count(state) for state in State}

    def refused_tenants(self, lane: str) -> dict[str, Record]:
        """By tenant, the breakers that are not closed."""
        found = self._lanes[lane].records
        return {
            tenant: record
            for tenant, record in found.items()
            if tenant and record.state is not State.CLOSED
        }

    async def advance(self, sampler: LaneSampler) -> None:
        """Take a sample; may raise RedisError."""
        self._clock = sampler.clock
        for lane, one in self._lanes.items():
            proven = await self._proven(one)
            following = one.observe(sampler.server_ms, sampler.lane(lane), proven)
            for tenant, record in following.items():
                await self._move(lane, tenant, record)
            await self._forget(lane, one, sampler.server_ms)

    async def take_probe(self, job: Job, tenant: str = "") -> bool:
        """Take a probe of the lane's breaker or of the tenant's; whether the job may be tried."""
        one = self._lanes[job.model]
        args = BreakerMove(one.texts.get(tenant, ""), "", self._policy.probes, tenant)
        keys = (LaneKeys.of(job.model).breaker,)
        if not await self._scripts.run("move_breaker", keys, args):
            return False
        if tenant:
            one.probes.setdefault(tenant, deque(maxlen=_PROBES_WATCHED)).append(job.id)
        return True

    async def reset(self, lane: str) -> Record:
        """Close it, for every tenant, and count only failures from now on. May raise RedisError."""
        one = self._lanes[lane]
        found = cast("dict[bytes, bytes]", await self._client.hgetall(LaneKeys.of(lane).breaker))
        one.texts = {
            name[6:].decode(): text.decode()
            for name, text in found.items()
            if name.startswith(b"state")
        }
        one.records = {name: Record.parse(text) for name, text in one.texts.items()}
        one.records.setdefault("", Record())
        for tenant in list(one.records):
            await self._move(lane, tenant, Record(since_ms=self._clock.now_ms()))
        return one.records[""]

    async def _proven(self, one: LaneBreakers) -> set[str]:
        """The tenants of which a probe succeeded."""
        ids = [(tenant, job_id) for tenant, jobs in one.probes.items() for job_id in jobs]
        if not ids:
            return set()
        pipe = self._client.pipeline(transaction=False)
        for _, job_id in ids:
            pipe.getrange(meta_key(job_id), 0, _STATUS_BYTES)
        found = cast("list[bytes]", await pipe.execute())
        return {
            tenant
            for (tenant, _), meta in zip(ids, found, strict=True)
            if meta.replace(b" ", b"").startswith(_SUCCESS)
        }

    async def _move(self, lane: str, tenant: str, following: Record) -> None:
        one, text = self._lanes[lane], following.text()
        record = one.records[tenant]
        args = BreakerMove(one.texts.get(tenant, ""), text, tenant=tenant)
        if not await self._scripts.run("move_breaker", (LaneKeys.of(lane).breaker,), args):
            return
        one.records[tenant], one.texts = following, {**one.texts, tenant: text}
        if following.state is not record.state:
            tell = log.warning if following.state is State.OPEN else log.info
            state, openings = following.state, following.openings
            tell("breaker_moved", lane=lane, tenant=tenant, state=state, openings=openings)

    async def _forget(self, lane: str, one: LaneBreakers, now_ms: int) -> None:
        """Drop the records of tenants that have recovered for good."""
        old = [
            tenant
            for tenant in one.texts
            if tenant
            and one.records[tenant].state is State.CLOSED
            and now_ms - one.records[tenant].since_ms > self._policy.open_max_ms
        ]
        if old:
            fields = [name for tenant in old for name in (f"state:{tenant}", f"probes:{tenant}")]
            await self._client.hdel(LaneKeys.of(lane).breaker, *fields)


def _more(count: int, before: int) -> int:
    """By how much a count grew, which may have begun anew."""
    return count - before if count >= before else count


def _reading(server_ms: int, state: LaneState) -> Reading:
    counters = state.counters
    return Reading(
        server_ms,
        counters.get("succeeded", 0),
        counters.get("model_failed", 0),
        unloadable=bool(state.load_errors) and not state.workers,
    )

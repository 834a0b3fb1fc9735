"""Decides which jobs are accepted, and when refused clients should retry.

The decision is prepared once a second, after each sample, as a gate for each lane that has a
problem; a job of a lane without a gate costs a dictionary lookup, and no job costs a round trip
to Redis. The one bound that must be exact, `max_backlog`, is enforced by the enqueue script.

A refused client gets the time at which there should be room *for it*: each one a little later
than the one before, at the throughput of the lane. If all retried at once, they would find room
for one.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from api.overload.breaker import Record, State
from api.overload.lane_sampler import DEEP_SECONDS, LaneSampler
from api.overload.lane_state import LaneState
from api.overload.queue_guard import QueueGuard
from api.overload.shared_breakers import Breakers
from common.errors import DeadlineUnreachable, LaneFull, ModelUnavailable, NoWorker, Refused
from common.jobs.job import Job
from common.redis.keys import BANDS
from common.redis.trouble import TROUBLE
from common.settings import OverloadSettings

log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Refused)

UNKNOWN_SECONDS = 5.0
"""The Retry-After where the time of recovery is unknown."""
_AWAY_SECONDS = 2.0
"""The Retry-After of a queue that accepts no writes: it is sampled four times a second."""
_LEAST_SECONDS = 1.0
_JITTER = 0.25
_UNLOADABLE = "no worker could load this model; /v1/models says why"
_MODEL_FAILS = "this model fails again and again; its jobs are refused until it has recovered"
_TENANT_FAILS = (
    "this model fails again and again with this tenant's jobs; they are refused until one "
    "succeeds, and those of other tenants are taken"
)
_UNSERVED = "no live worker serves this model; the job waits until one starts (`python -m worker`)"


@dataclass(frozen=True, slots=True)
class Gate:
    """Why some jobs of a lane are refused. With no field set, all are accepted."""

    refusal: type[Refused] | None = None
    text: str = ""
    until: float | None = None
    """When the refusals may end, by the loop's clock."""
    probing: bool = False
    """Whether a job that gets a probe is accepted."""
    starts: tuple[float, ...] | None = None
    """By band, a lower bound on the seconds until a job starts."""
    tenants: Mapping[str, Gate] = field(default_factory=dict)
    """Of tenants whose jobs fail: their own, beside this one."""


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """The settings for accepting jobs."""

    deadline_safety_factor: float
    """How many times faster than measured the lane may be; 0 refuses no job for its deadline."""
    scale_from_zero: bool
    """Whether a lane without a worker accepts jobs."""
    retry_after_max_seconds: float

    @classmethod
    def of(cls, settings: OverloadSettings) -> AdmissionPolicy:
        """The policy of a process with these settings."""
        return cls(
            settings.deadline_safety_factor,
            settings.scale_from_zero,
            settings.retry_after_max_seconds,
        )


class Admission:
    """Accepts or refuses jobs; one per process."""

    def __init__(
        self, policy: AdmissionPolicy, sampler: LaneSampler, breakers: Breakers, guard: QueueGuard
    ) -> None:
        self._policy = policy
        self._sampler = sampler
        self._breakers = breakers
        self._guard = guard
        self._gates: dict[str, Gate] = {}
        self._turns: dict[str, float] = {}
        """Per full lane, the retry time given to the last refused client."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Jobs that were not taken, by lane and reason."""
        sampler.on_sample = self.refresh

    async def refresh(self) -> None:
        """Compute the gates that apply until the next sample; called after each one."""
        now = asyncio.get_running_loop().time()
        self._guard.sampled(self._sampler.trouble, self._sampler.began, now)
        if not self._sampler.readable:
            return  # the last gates stay in force
        try:
            await self._breakers.advance(self._sampler)
        except RedisError as exc:
            TROUBLE.note("moving breakers", exc)
        gates = {lane: self._gate(lane, now) for lane in self._sampler.lanes}
        self._gates = {lane: gate for lane, gate in gates.items() if gate is not None}

    @property
    def is_closed(self) -> bool:
        """Whether the queue accepts no work at all."""
        return self._guard.refusal is not None

    @property
    def may_refuse(self) -> bool:
        """Whether any job may be refused; if not, `admit` need not be called."""
        return bool(self._gates) or self._guard.refusal is not None

    async def admit(self, job: Job) -> None:
        """Return when the job may be published; raises Refused."""
        self.require_queue(job)
        gate = self._gates.get(job.model)
        if gate is not None:
            await self._pass(gate, job)

    def require_queue(self, job: Job) -> None:
        """Return when the queue accepts work, as far as is known; raises Refused."""
        if self._guard.refusal is not None:
            raise self._away(job)

    async def admit_all(self, jobs: Sequence[Job]) -> dict[int, Refused]:
        """As `admit` for many: returns the refusals by index."""
        refused: dict[int, Refused] = {}
        if self._guard.refusal is None and not self._gates:
            return refused
        for index, job in enumerate(jobs):
            try:
                await self.admit(job)
            except Refused as exc:
                refused[index] = exc
        return refused

    def full(self, job: Job) -> LaneFull:
        """The refusal of a job whose lane is full, with the time to retry."""
        seconds = self._turn_seconds(job.model)
        text = (
            f"lane {job.model!r} holds as many jobs as it may; "
            f"there should be room in about {max(seconds, 1):.0f} s"
        )
        exc = LaneFull(text, self._spread(seconds))
        return self.noted(job, exc)

    async def close_breaker(self, lane: str) -> Record:
        """Accept the lane's jobs again, regardless of earlier failures. May raise RedisError."""
        record = await self._breakers.reset(lane)
        self._gates.pop(lane, None)
        return record

    def notice(self, lane: str) -> str | None:
        """A notice for the client of an accepted job: that no live worker serves it yet."""
        state = self._sampler.lanes.get(lane)
        if state is None or state.workers or not self._sampler.readable:
            return None
        return _UNSERVED

    def _away(self, job: Job) -> Refused:
        assert self._guard.refusal is not None
        return self.noted(job, self._guard.refused(self._spread(_AWAY_SECONDS)))

    async def _pass(self, gate: Gate, job: Job) -> None:
        if job.tenant in gate.tenants:
            await self._probe(gate.tenants[job.tenant], job, job.tenant)
        await self._probe(gate, job)
        if gate.refusal is not None:
            return
        limit_ms = job.expires_ms
        if gate.starts is None or limit_ms is None:
            return
        left, wait = (
            (limit_ms - self._sampler.clock.now_ms()) / 1000,
            gate.starts[job.priority // 3],
        )
        if job.tenant:
            wait = min(wait, self._own_wait(job))
        if wait > left:
            raise self.noted(job, self._too_late(job, left, wait))

    async def _probe(self, gate: Gate, job: Job, tenant: str = "") -> None:
        """Raise the gate's refusal, unless the job may be tried all the same."""
        if gate.refusal is None or (gate.probing and await self._breakers.take_probe(job, tenant)):
            return
        seconds = self._seconds_until(gate.until)
        raise self.noted(job, gate.refusal(gate.text, self._spread(seconds)))

    def _own_wait(self, job: Job) -> float:
        """Seconds that its tenant's jobs alone would take, as if no others waited: tenants take
        turns, so among several this is the only certain lower bound.
        """
        state = self._sampler.lane(job.model)
        if state.tenants is None or not state.measured:
            return 0.0
        own = state.tenants.get(job.tenant, 0)
        if own >= sum(state.waiting) and not state.tenants.keys() - {job.tenant}:
            return math.inf
        return max(0, own - state.leased) / (state.measured * self._policy.deadline_safety_factor)

    def _too_late(self, job: Job, left: float, wait: float) -> DeadlineUnreachable:
        expected = self._sampler.lane(job.model).start_seconds(job.priority) or wait
        text = (
            f"the job would start in about {expected:.0f} s, after its limit of {left:.1f} s; "
            "come back later, or give it more time"
        )
        # Until the lane has drained so far that the job would be accepted.
        return DeadlineUnreachable(text, self._spread(wait - max(left, 0.0)))

    def _gate(self, lane: str, now: float) -> Gate | None:
        state, record = self._sampler.lanes[lane], self._breakers.record(lane)
        tenants = {
            tenant: self._broken(one, now, _TENANT_FAILS)
            for tenant, one in self._breakers.refused_tenants(lane).items()
        }
        if record.state is not State.CLOSED:
            text = _UNLOADABLE if record.unloadable else _MODEL_FAILS
            return replace(self._broken(record, now, text), tenants=tenants)
        if not self._policy.scale_from_zero and not state.workers:
            text = "no live worker serves this model, and none is started for what waits"
            return Gate(NoWorker, text)
        starts = self._starts(state)
        return Gate(starts=starts, tenants=tenants) if starts or tenants else None

    def _broken(self, record: Record, now: float, text: str) -> Gate:
        until = now + (record.until_ms - self._sampler.server_ms) / 1000
        return Gate(ModelUnavailable, text, until, record.state is State.HALF_OPEN)

    def _starts(self, state: LaneState) -> tuple[float, ...] | None:
        factor = self._policy.deadline_safety_factor
        if not (factor and state.measured):
            return None
        pace = state.measured * factor
        starts = tuple(state.ahead(band) / pace for band in BANDS)
        return starts if starts[-1] >= DEEP_SECONDS else None

    def _turn_seconds(self, lane: str) -> float:
        """Seconds until there is room for one more, after the clients refused before."""
        state = self._sampler.lane(lane)
        rate = state.per_second
        if not rate:
            return UNKNOWN_SECONDS
        now = time.monotonic()
        # Never so late that the lane would be empty before the clients retry.
        latest = now + max(_LEAST_SECONDS, state.backlog / rate / 2)
        turn = min(max(self._turns.get(lane, 0.0), now) + 1 / rate, latest)
        self._turns[lane] = turn
        return turn - now

    def _spread(self, seconds: float) -> float:
        longest = self._policy.retry_after_max_seconds
        spread = max(seconds, _LEAST_SECONDS) * random.uniform(1.0, 1.0 + _JITTER)  # noqa: S311 - spreads load
        return min(spread, longest)

    @staticmethod
    def _seconds_until(moment: float | None) -> float:
        if moment is None:
            return UNKNOWN_SECONDS
        return moment - asyncio.get_running_loop().time()

    def noted(self, job: Job, exc: E) -> E:
        """Count a refusal and return it."""
        self.refused[job.model, exc.code] += 1
        return exc

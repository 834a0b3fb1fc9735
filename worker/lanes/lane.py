"""One lane inside a worker: the jobs it holds and how many more to reserve.

Jobs stay in Redis until they are needed, so that workers share a backlog
fairly: one batch ahead of the running one, or a window of several while the
lane is deep, from which the batcher can form batches of similar cost.

Pure state: the lane's transitions in Redis are worker/jobs/leases.py.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence

from common.catalog import Catalog, ModelSpec
from common.settings import Settings
from worker.batching.batch_time import BatchTime
from worker.batching.batcher import Batch, Batcher, BatchLimits
from worker.jobs.execution import Execution
from worker.jobs.leases import Reservation
from worker.jobs.served import Served
from worker.lanes.admission import ONE_BY_ONE, Admission
from worker.lanes.lane_stats import LaneStats
from worker.lanes.rows import Rows
from worker.lanes.shadow import SHADOW_LIMITS, Shadow, ShadowLimits
from worker.lanes.split import Split
from worker.lanes.step import Step
from worker.lanes.watch import Watch, watch_of
from worker.models.base import Model
from worker.models.remote import RemoteGenerator, is_remote

_FETCHING_PER_SLOT = 16
"""Jobs that may wait for an input, per one that is fetched; of a tenant, a quarter of its share."""
_FIRST_BAND = ord("1")
"""The last byte of a tag is the number, 1 to 4, of the band of its message."""


class Lane:
    """State of one lane, guarded by the lock of `WorkerState`.

    Three fields are written without it, by the reserver alone, and may be read late:
    `backlog`, `clock_ahead` and `asked_at`.
    """

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        *,
        result_ttl_seconds: int,
        look_ahead_jobs: int,
        max_fetching: int,
        tenant_share: float = 1.0,
        step_look_ahead: int = 4,
        max_attempts: int = 3,
        shadow_limits: ShadowLimits = SHADOW_LIMITS,
    ) -> None:
        """step_look_ahead is as look_ahead_jobs, of lanes whose work is steps."""
        self.name = name
        self.spec = spec
        """The model that serves the lane; replaced when an alias is moved."""
        self.result_ttl = spec.result_ttl_seconds or result_ttl_seconds
        self.limits = _limits(spec)
        self.stats = LaneStats()
        self.batcher: Batcher[Execution] = Batcher(self.limits)
        self.suspects: deque[Execution] = deque()
        self.in_hand: dict[bytes, Execution] = {}
        self.waiting = 0
        """Jobs that are reserved and not yet in a running batch."""
        self.decoding = 0
        """How many of them are in the decode pool."""
        self.fetching: Counter[str] = Counter()
        """By tenant, jobs whose input is being fetched; not counted in `waiting`."""
        self.handler: Model | None = None
        """Set while the model is in memory."""
        self.split: Split | None = None
        """How its jobs are shared out, where it is an alias with shares; None for most."""
        self.shadow: Shadow | None = None
        """Who answers its jobs too, unseen; None for most."""
        self.watch: Watch | None = None
        """What looks at its results; None for most."""
        self.admission: Admission | None = None
        """How its jobs join rows, where its model is a generator; None while it is not loaded."""
        self.remote: RemoteGenerator | None = None
        """Its model, where that runs in a server of its own; None while it is not loaded."""
        self.closing = False
        """Whether its model is to be unloaded: jobs in hand still run, no more are reserved."""
        self.wanted_since: float | None = None
        """When work for a model that is not in memory was first found; None where there is none."""
        self.ready = True
        """Whether Redis may hold work for the lane."""
        self.armed = False
        """Whether the notifier will report work for the lane."""
        self.starved = False
        """Whether a tenant with no other job here waits while this worker is full."""
        self.asking = False
        """Whether a reservation was requested and not yet received."""
        self.asked_at, self.backlog = 0.0, 0
        self.clock_ahead = time.time() - time.monotonic()
        """Add it to the steady clock for the Redis server's time, in Unix seconds."""
        self._look_ahead = look_ahead_jobs
        self._shadow_limits = shadow_limits
        self._steps = (step_look_ahead, max_attempts)
        self._max_fetching = max_fetching * _FETCHING_PER_SLOT
        self._tenant_fetching = max(1, int(self._max_fetching * tenant_share / 4))

    def room(self) -> int:
        """How many jobs to reserve now.

        One batch ahead of the running one, two where reserving takes longer than running, or
        a window of several where the lane is deep; and one batch more for a tenant with no job
        here yet, so that its job can be in the next batch.
        """
        if self.handler is None or self.closing:
            return 0
        if self.fetching and self.fetching.total() >= self._max_fetching:
            return 0
        if self.admission is not None:
            return max(0, self.admission.room(self.backlog) + self.starved - self.waiting)
        if self.remote is not None:
            return self._room_for(self.remote)
        jobs = self.limits.max_batch
        if self.stats.reserve_seconds > self.stats.run_seconds:
            jobs *= 2
        if self.backlog > 4 * self._look_ahead:
            jobs = max(jobs, self._look_ahead)
        if self.starved:
            jobs += self.limits.max_batch
        return max(0, jobs - self.waiting)

    def _room_for(self, server: RemoteGenerator) -> int:
        """Jobs for slots that are free, and a few more while the lane is deep, so that a slot is
        taken as soon as it is free; none for a server that is not healthy.
        """
        slots = server.slots
        if not slots:
            return 0
        ahead = self._steps[0] if self.backlog else 0
        return max(0, max(0, slots - server.taken) + ahead + self.starved - self.waiting)

    @property
    def generates(self) -> bool:
        """Whether its jobs are generations, which may be read as they come and may end any time."""
        return self.admission is not None or self.remote is not None

    def may_fetch(self, tenant: str) -> bool:
        """Whether one more job of this tenant may wait here for its input. More are put off: a
        server that hangs must not keep jobs from the lane whose input is at hand.
        """
        return not tenant or self.fetching[tenant] < self._tenant_fetching

    def fetch_ended(self, tenant: str) -> None:
        """Note that a job's input was fetched, or not."""
        self.fetching[tenant] -= 1
        if self.fetching[tenant] <= 0:
            del self.fetching[tenant]

    def listens(self) -> bool:
        """Whether the lane needs notifications of work: it has room, or its model is not loaded."""
        return self.handler is None or self.room() > 0

    def looked_at(self, has_work: bool, now: float) -> None:
        """Record whether Redis holds work for the lane; the notifier reports changes after this."""
        if self.handler is not None:
            self.ready |= has_work
            self.armed = not has_work
            return
        self.armed = True
        if not has_work:
            self.wanted_since = None
        elif self.wanted_since is None:
            self.wanted_since = now

    def learned(self, reservation: Reservation, now: float) -> None:
        """Take the backlog and the server's clock from a reservation."""
        self.backlog = reservation.left_waiting
        self.clock_ahead = reservation.server_ms / 1000 - now

    def server_time(self) -> float:
        """The Redis server's clock, Unix seconds, with which deadlines are compared."""
        return time.monotonic() + self.clock_ahead

    def oldest(self) -> float | None:
        """The arrival time of the job that has waited longest here; None when none waits."""
        arrivals = [self.batcher.oldest_arrival()]
        if self.admission is not None:
            arrivals.append(self.admission.oldest())
        if self.suspects:
            arrivals.append(self.suspects[0].arrived)
        if len(arrivals) == 1:
            return arrivals[0]
        known = [arrival for arrival in arrivals if arrival is not None]
        return min(known) if known else None

    def serve(self, spec: ModelSpec, handler: Model | None, rows: Rows | None = None) -> None:
        """Run the jobs decoded from now on with this model; with None the lane has no model. rows
        are those of a generator.
        """
        if spec is not self.spec:
            self.spec = spec
            self.limits = self.batcher.limits = _limits(spec)
            self.batcher.time = BatchTime()
        self.limits.pads = getattr(handler, "pads", True)
        if rows is None:
            self.admission = None
        elif self.admission is None:
            self.admission = Admission(rows, *self._steps)
        else:
            self.admission.serve(rows)
        self.remote = handler if is_remote(handler) else None
        self.batcher.limits = ONE_BY_ONE if self.generates else self.limits
        self.handler, self.closing, self.wanted_since = handler, False, None
        self.ready, self.armed = handler is not None, False
        self.share(None)
        self._follow_shadow()

    def share(self, split: Split | None) -> None:
        """Share its jobs out like this from now on; its batches then keep to the limits of each of
        the models, as they have one queue.
        """
        models = {} if split is None else split.models
        before = {} if self.split is None else self.split.models
        self.split = split
        if models.keys() != before.keys() and not self.generates:
            self.limits = self.batcher.limits = _tightest(
                [self.spec, *(one.spec for one in models.values())]
            )
            handlers = [self.handler, *(one.handler for one in models.values())]
            self.limits.pads = any(getattr(one, "pads", True) for one in handlers)

    def _follow_shadow(self) -> None:
        model = self.spec.shadow if self.handler is not None and not self.generates else None
        if self.shadow is not None and self.shadow.model != model:
            self.shadow.leave()
            self.shadow = None
        if self.shadow is None and model is not None:
            self.shadow = Shadow(model, self.stats.shadow(model), self._shadow_limits)
        self.watch = watch_of(self.spec, self.stats, self.shadow)

    def assign(self, executions: list[Execution], keep: bool = True) -> list[Execution]:
        """Pick the model of each job, where there is a choice; returns them sorted by model.

        keep: whether their inputs may be kept for the shadow.
        """
        own = executions
        if (split := self.split) is not None:
            for execution in executions:
                execution.served = served = split.pick(execution)
                execution.handler = served.handler  # so that it is not unloaded meanwhile
            executions = sorted(executions, key=_name_of_model)
            own = [one for one in executions if one.handler is self.handler]
        if keep and self.shadow is not None:
            self.shadow.keep(own)
        return executions

    def spec_of(self, execution: Execution) -> ModelSpec:
        """The model that runs this job."""
        served = execution.served
        return self.spec if served is None else served.spec

    def add(self, execution: Execution, now: float) -> None:
        """Add a decoded job to the batcher."""
        expires = execution.expires_at or execution.deadline
        tenant, key = execution.tenant, execution.key
        self.batcher.add(
            execution,
            execution.cost,
            now,
            group=id(execution.handler),
            priority=execution.tag[-1] - _FIRST_BAND,
            deadline=None if expires is None else expires - self.clock_ahead,
            key=(tenant, key) if tenant and key is not None else key,
            tenant=tenant,
        )

    def is_full(self) -> bool:
        """Whether a batch of the maximum size waits."""
        return len(self.batcher) >= self.limits.max_batch

    def next_work(self, now: float, device_idle: bool) -> Batch[Execution] | Step | None:
        """The next work for the device: a suspect alone, else a batch.

        None while a short wait is worth more jobs in the batch: they are being decoded, or the
        device is not idle yet. A lane whose work is steps returns a Step.
        """
        if self.admission is not None:
            return self.admission.next_step(self, now)
        if self.suspects:
            if not device_idle:
                return None
            suspect = self.suspects.popleft()
            return Batch.single(suspect, suspect.cost)
        return self.batcher.next_batch(now, device_idle=device_idle and not self.decoding) or None

    def take_all(self) -> None:
        """Remove the jobs that have not started; the caller releases them."""
        self.suspects.clear()
        if self.admission is not None:
            self.admission.take_all()
        self.batcher.take_all()
        self.waiting = 0

    def forget(self, executions: Sequence[Execution]) -> None:
        """Remove executions that have ended, or whose lease this worker no longer holds."""
        for execution in executions:
            self.in_hand.pop(execution.tag, None)


def _name_of_model(execution: Execution) -> str:
    served: Served | None = execution.served
    return "" if served is None else served.spec.name


def _tightest(specs: Sequence[ModelSpec]) -> BatchLimits:
    every = [_limits(spec) for spec in specs]
    costs = [one.max_cost for one in every if one.max_cost is not None]
    targets = [one.target_latency_ms for one in every if one.target_latency_ms is not None]
    return BatchLimits(
        min(one.max_batch for one in every),
        min(one.max_wait_ms for one in every),
        min(costs, default=None),
        min(targets, default=None),
    )


def _limits(spec: ModelSpec) -> BatchLimits:
    return BatchLimits(spec.max_batch, spec.max_wait_ms, spec.max_cost, spec.target_latency_ms)


def lanes_of(catalog: Catalog, settings: Settings) -> dict[str, Lane]:
    """A lane for each name of the catalog."""
    return {
        name: Lane(
            name,
            spec,
            result_ttl_seconds=settings.result_ttl_seconds,
            look_ahead_jobs=settings.look_ahead_jobs,
            max_fetching=settings.fetch_concurrency,
            tenant_share=settings.tenant_share,
            step_look_ahead=settings.generation_look_ahead,
            max_attempts=settings.max_attempts,
            shadow_limits=ShadowLimits(
                settings.shadow_waiting_jobs, settings.shadow_waiting_mb * 2**20
            ),
        )
        for name, spec in catalog.items()
    }

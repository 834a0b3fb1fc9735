"""One lane inside a worker: what it holds, how much more it wants.

Jobs stay in Redis until they are needed, so that workers share a backlog
fairly: one batch ahead of the running one, or a window of several while the
lane is deep, which lets the batcher put like beside like.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from redis import Redis

from common.catalog import ModelSpec
from common.inputs.blobs import STORED
from common.redis.keys import blob_key
from common.settings import Settings
from worker.batching.batch_time import BatchTime
from worker.batching.batcher import Batcher, BatchLimits
from worker.jobs.leases import LaneLeases, Reservation
from worker.jobs.steps import Execution, parse
from worker.lanes.stages import LaneStages
from worker.models.base import Model

_FIRST_BAND = ord("1")
"""A tag ends in the number, 1 to 4, of the band that its message came from."""


class Lane:
    """State of one lane. Fields are guarded by the engine's lock; I/O happens outside it."""

    def __init__(
        self, name: str, spec: ModelSpec, client: Redis, worker: str, settings: Settings
    ) -> None:
        self.name = name
        self.spec = spec
        """The model that serves it; another one after an alias was moved."""
        self.result_ttl = spec.result_ttl_seconds or settings.result_ttl_seconds
        self.leases = LaneLeases(client, name, worker, settings)
        self.limits = _limits(spec)
        self.batcher: Batcher[Execution] = Batcher(self.limits)
        self.suspects: deque[Execution] = deque()
        self.in_hand: dict[bytes, Execution] = {}
        self.waiting = 0
        """Jobs that were reserved and are not yet in a running batch."""
        self.decoding = 0
        """How many of them are in the decode pool."""
        self.fetching = 0
        """Jobs whose input is on its way from elsewhere; not among those that wait."""
        self.handler: Model | None = None
        """Set while the model is in memory."""
        self.closing = False
        """Whether its model is about to leave: what is in hand still runs, nothing more comes."""
        self.wanted_since: float | None = None
        """Since when we know of work for a model that is not in memory."""
        self.ready = True
        """Whether the lane may have work in Redis."""
        self.armed = False
        """Whether the doorbell will tell us of work."""
        self.hurried = False
        """Whether a tenant with no other job waits for its turn while our hands are full."""
        self.backlog = 0
        self.clock_ahead = time.time() - time.monotonic()
        """Add it to the steady clock for the Redis server's time, in Unix seconds."""
        self.decode_seconds = 1.0
        """What decoding one input last took."""
        self.asking = False
        """Whether a reservation is on its way."""
        self.asked_at = 0.0
        self.feed_seconds = 0.0
        """What it takes, of late, from asking for a batch until it is parsed."""
        self.run_seconds = 0.0
        """How long, of late, a batch has the device."""
        self.sizes: dict[int, int] = {}
        self.stages = LaneStages()
        self._client = client
        self._look_ahead = settings.look_ahead_jobs
        self._max_fetching = settings.fetch_concurrency

    def room(self) -> int:
        """How many jobs to reserve now.

        One batch ahead of the running one, two where feeding takes longer than running,
        a window of several where the lane is deep; and for a tenant that has nothing here yet,
        one batch more, so that its job can be in the next one.
        """
        if self.handler is None or self.closing or self.fetching >= self._max_fetching:
            return 0
        jobs = self.limits.max_batch
        if self.feed_seconds > self.run_seconds:
            jobs *= 2
        if self.backlog > 4 * self._look_ahead:
            jobs = max(jobs, self._look_ahead)
        if self.hurried:
            jobs += self.limits.max_batch
        return max(0, jobs - self.waiting)

    def listens(self) -> bool:
        """Whether work in Redis is news to us: there is room for it, or its model is not here."""
        return self.handler is None or self.room() > 0

    def found(self, work: bool) -> None:
        """Looked at, the lane has work or has none; from now on the doorbell tells of changes."""
        if self.handler is not None:
            self.ready |= work
            self.armed = not work
            return
        self.armed = True
        if not work:
            self.wanted_since = None
        elif self.wanted_since is None:
            self.wanted_since = time.monotonic()

    def ask(self, wanted: int) -> None:
        """Start to lease up to `wanted` jobs; `receive` must follow."""
        self.asked_at = time.monotonic()
        self.leases.ask(wanted, self.result_ttl)

    def receive(self) -> Reservation:
        """What was asked for."""
        reservation = self.leases.receive()
        self.backlog = reservation.left_waiting
        self.clock_ahead = reservation.server_ms / 1000 - time.monotonic()
        return reservation

    def read(self, reservation: Reservation) -> list[Execution]:
        """The messages of a reservation; inputs that lie beside them are still missing."""
        now = time.monotonic()
        executions = [parse(lease, self.name, now) for lease in reservation.leases]
        for execution in executions:
            execution.reserved_ms = reservation.server_ms
            if not self.spec.run_identical_once:
                execution.key = None
        self.stages.reserved(executions, reservation.server_ms)
        return executions

    def fetch_blobs(self, executions: Sequence[Execution]) -> None:
        """Get the inputs that lie beside the messages of these."""
        blobs = self._client.mget([blob_key(execution.job_id) for execution in executions])
        for execution, blob in zip(executions, blobs, strict=True):
            execution.stored = blob == STORED
            execution.blob = bytes(blob) if isinstance(blob, bytes) else None

    def server_time(self) -> float:
        """The Redis server's clock, Unix seconds; deadlines go by it, whatever ours says."""
        return time.monotonic() + self.clock_ahead

    def oldest(self) -> float | None:
        """When the job that has waited longest here arrived; None when none waits."""
        arrivals = [self.batcher.oldest_arrival()]
        if self.suspects:
            arrivals.append(self.suspects[0].arrived)
        known = [arrival for arrival in arrivals if arrival is not None]
        return min(known) if known else None

    def serve(self, spec: ModelSpec, handler: Model | None) -> None:
        """From now on this model runs what arrives, or none does."""
        if spec is not self.spec:
            self.spec = spec
            self.limits = self.batcher.limits = _limits(spec)
            self.batcher.time = BatchTime()
        self.limits.pads = getattr(handler, "pads", True)
        self.handler, self.closing, self.wanted_since = handler, False, None
        self.ready, self.armed = handler is not None, False

    def add(self, execution: Execution, now: float) -> None:
        """Let a decoded job wait for its batch."""
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
        """Whether a batch waits that could not be larger."""
        return len(self.batcher) >= self.limits.max_batch

    def take_batch(self, now: float, device_idle: bool = True) -> list[Execution]:
        """What the device should run: a suspect alone, else a batch.

        Empty while company is worth the short wait: it is being decoded, or the
        device is not idle yet.
        """
        if self.suspects:
            return [self.suspects.popleft()] if device_idle else []
        return self.batcher.next_batch(now, device_idle=device_idle and not self.decoding)

    def drain(self) -> list[Execution]:
        """Everything unstarted, for handing back."""
        unstarted = [*self.suspects, *self.batcher.drain()]
        self.suspects.clear()
        return unstarted

    def forget(self, executions: Sequence[Execution]) -> None:
        """These are settled, or no longer ours."""
        for execution in executions:
            self.in_hand.pop(execution.tag, None)


def _limits(spec: ModelSpec) -> BatchLimits:
    return BatchLimits(spec.max_batch, spec.max_wait_ms, spec.max_cost, spec.target_latency_ms)

"""State shared by the threads of one worker: the lanes, behind one lock and condition.

One lock, because each thread waits for changes made by the others, and a thread cannot wait
on two conditions at once. No thread does network I/O while holding it. Each event has one
method, which takes the lock, applies the change, and notifies the waiting threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from worker.jobs.execution import Execution
from worker.jobs.tenant_usage import TenantUsage
from worker.jobs.worker_counts import WorkerCounts
from worker.lanes.lane import Lane

_EARLY_WAKE_UP_SECONDS = 1.0
"""How long the limit on unpublished results is lower after a tenant was found starved."""


class WorkerState:
    """The lanes of one worker process and the events between its threads."""

    def __init__(self, lanes: Mapping[str, Lane], max_tenants: int = 0) -> None:
        """max_tenants is how many have a name in the metrics."""
        self.lanes = lanes
        self.counts = WorkerCounts(tenants=TenantUsage(max_tenants))
        self.lock = threading.RLock()
        """Of all that is here; taken by itself, as the condition would take it in two calls."""
        self.changed = threading.Condition(self.lock)
        self.stopping = threading.Event()
        self.running: frozenset[bytes] = frozenset()
        """Tags of the jobs on the device. Written by the device thread."""
        self._on_rows: frozenset[bytes] = frozenset()
        """Of these, the ones that stay there across steps."""
        self._in_servers: frozenset[bytes] = frozenset()
        """And those in servers, which the device has no part in."""
        self.unpublished = 0
        """Groups of jobs that the finisher has queued or is publishing. Written by the threads that
        submit them and by the finisher."""
        self.unpublished_batches = 0
        """How many of these groups the device ran."""
        self.starved_until = 0.0
        """Steady time until which some tenant counts as starved. Written by the notifier."""

    # Events from the notifier.

    def lane_may_have_work(self, name: str | None) -> None:
        """Have the reserver try this lane, or all lanes when name is None."""
        with self.lock:
            for lane in (self.lanes[name],) if name else self.lanes.values():
                lane.ready, lane.armed = True, False
            self.changed.notify_all()

    def job_canceled(self, name: str, tag: bytes) -> None:
        """Mark a canceled job as lost where this worker holds it and has not started it."""
        lane = self.lanes.get(name)
        if lane is not None:
            self.leases_lost(lane, [tag])

    def tenant_starved(self, name: str, now: float) -> None:
        """Record that a tenant's first job waits in this lane behind those of other tenants."""
        lane = self.lanes.get(name)
        if lane is None:
            return
        with self.lock:
            lane.starved = lane.ready = True
            self.starved_until = now + _EARLY_WAKE_UP_SECONDS
            self.changed.notify_all()

    # For the intake.

    def assign(self, lane: Lane, executions: list[Execution], keep: bool = True) -> list[Execution]:
        """Pick the models of jobs that are about to be decoded; see Lane.assign."""
        with self.lock:
            return lane.assign(executions, keep)

    # For the renewer.

    def tags_in_hand(self, lane: Lane) -> list[bytes]:
        """The tags of the leases to renew."""
        with self.lock:
            return list(lane.in_hand)

    def leases_lost(self, lane: Lane, tags: Sequence[bytes]) -> int:
        """Mark the jobs of these leases that have not started as lost, or that may leave between
        two steps; the results of those in a running batch will be fenced.

        Returns how many were marked.
        """
        with self.lock:
            held = [lane.in_hand.get(tag) for tag in tags]
            leaves = lane.generates
            lost = [
                one
                for one in held
                if one and one.disposition is None and (leaves or not one.started)
            ]
            for execution in lost:
                execution.disposition = "lost"
                if lane.admission is not None:
                    execution.lost_at_step = lane.admission.rows.steps
        return len(lost)

    # Events from the device thread and the finisher.

    def took(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """Move these from their lane to the device. Call it holding the lock."""
        lane.waiting -= len(executions)
        self.running |= {one.tag for one in executions}
        self.changed.notify_all()

    def set_running(self, executions: Sequence[Execution]) -> None:
        """Set the jobs of the batch that is on the device."""
        with self.lock:
            staying = self._on_rows | self._in_servers
            self.running = staying.union(one.tag for one in executions)

    def set_on_rows(self, executions: Iterable[Execution]) -> None:
        """Set the jobs that stay on the device across steps; no batch is on it."""
        with self.lock:
            self._on_rows = frozenset(one.tag for one in executions)
            self.running = self._on_rows | self._in_servers
            self.changed.notify_all()  # there may be room

    def set_in_servers(self, executions: Iterable[Execution]) -> None:
        """Set the jobs that servers have."""
        with self.lock:
            others = self.running - self._in_servers
            self._in_servers = frozenset(one.tag for one in executions)
            self.running = others | self._in_servers

    def submitted(self, ran: bool) -> None:
        """Count a group for the finisher; `ran` is whether the device ran it as a batch."""
        with self.lock:
            self.unpublished += 1
            self.unpublished_batches += ran

    def published(self, lane: Lane, executions: Sequence[Execution], ran: bool) -> None:
        """Remove a group that the finisher has published or dropped."""
        with self.lock:
            self.unpublished -= 1
            self.unpublished_batches -= ran
            lane.forget(executions)
            self.changed.notify_all()

    def await_published(self, look_seconds: float) -> None:
        """Wait until everything that was submitted is published, or the worker stops."""
        with self.lock:
            while self.unpublished and not self.stopping.is_set():
                self.changed.wait(look_seconds)

    def released(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """Remove jobs whose leases were released, or are left to expire."""
        with self.lock:
            lane.forget(executions)
            self.changed.notify_all()

    def take_started(self, lane: Lane) -> list[Execution]:
        """Remove and return the jobs that a run which does not end still contains."""
        with self.lock:
            started = [one for one in lane.in_hand.values() if one.disposition is None]
            lane.forget(started)
        return started

    # Shutdown.

    def stop(self) -> None:
        """Signal every thread to stop."""
        self.stopping.set()
        self.wake()

    def wake(self) -> None:
        """Wake the waiting threads so that they check the state again."""
        with self.lock:
            self.changed.notify_all()

    def take_unstarted(self, lane: Lane) -> list[Execution]:
        """Remove and return the jobs that no batch contains; the caller releases them."""
        with self.lock:
            unstarted = [
                one
                for one in lane.in_hand.values()
                if one.disposition is None and not one.started and one.tag not in self.running
            ]
            lane.take_all()
            lane.forget(unstarted)
        return unstarted

"""What the threads of one worker share: the lanes, behind one lock and condition.

One lock, because what one thread changes another waits for, and a wait on two would
miss one of them. Nobody does network I/O while holding it. Each event has one method,
which takes the lock, changes what it is about, and wakes who waits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from worker.jobs.execution import Execution
from worker.lanes.lane import Lane

_EARLY_WAKE_UP_SECONDS = 1.0
"""How long, after a tenant was found starved, fewer results may wait for the finisher."""


class WorkerState:
    """The lanes of one worker process and what its threads tell each other."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self.lanes = lanes
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.running: frozenset[bytes] = frozenset()
        """Tags on the device. Written by the device thread."""
        self.unpublished = 0
        """Groups of jobs that wait for the finisher, or that it has. Written by who submits
        them and by the finisher."""
        self.unpublished_batches = 0
        """How many of them the device ran."""
        self.starved_until = 0.0
        """Steady time until which some tenant counts as starved. Written by the notifier."""

    # What the notifier hears.

    def lane_may_have_work(self, name: str | None) -> None:
        """Look at this lane, or at all."""
        with self.changed:
            for lane in (self.lanes[name],) if name else self.lanes.values():
                lane.ready, lane.armed = True, False
            self.changed.notify_all()

    def job_canceled(self, name: str, tag: bytes) -> None:
        """A job that we hold was canceled; if it has not started it never will."""
        lane = self.lanes.get(name)
        if lane is not None:
            self.leases_lost(lane, [tag])

    def tenant_starved(self, name: str, now: float) -> None:
        """A tenant that had nothing in this lane has a job now, and the lane is full of others'."""
        lane = self.lanes.get(name)
        if lane is None:
            return
        with self.changed:
            lane.starved = lane.ready = True
            self.starved_until = now + _EARLY_WAKE_UP_SECONDS
            self.changed.notify_all()

    # What the renewer finds.

    def tags_in_hand(self, lane: Lane) -> list[bytes]:
        """The leases to renew."""
        with self.changed:
            return list(lane.in_hand)

    def leases_lost(self, lane: Lane, tags: Sequence[bytes]) -> int:
        """Those that have not started need not; those that run will meet the fence.

        Returns how many have not.
        """
        with self.changed:
            held = [lane.in_hand.get(tag) for tag in tags]
            lost = [one for one in held if one and one.disposition is None and not one.started]
            for execution in lost:
                execution.disposition = "lost"
        return len(lost)

    # What the device thread does.

    def took(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """These leave their lane for the device. Call it holding the lock."""
        lane.waiting -= len(executions)
        self.running |= {one.tag for one in executions}
        self.changed.notify_all()

    def set_running(self, executions: Sequence[Execution]) -> None:
        """These are on the device, and no others."""
        with self.changed:
            self.running = frozenset(one.tag for one in executions)

    def submitted(self, ran: bool) -> None:
        """A group of jobs waits for the finisher; `ran` says whether the device ran it."""
        with self.changed:
            self.unpublished += 1
            self.unpublished_batches += ran

    def published(self, lane: Lane, executions: Sequence[Execution], ran: bool) -> None:
        """The finisher is done with a group."""
        with self.changed:
            self.unpublished -= 1
            self.unpublished_batches -= ran
            lane.forget(executions)
            self.changed.notify_all()

    def await_published(self, look_seconds: float) -> None:
        """Wait until everything that was submitted is published, or the worker stops."""
        with self.changed:
            while self.unpublished and not self.stopping.is_set():
                self.changed.wait(look_seconds)

    def released(self, lane: Lane, executions: Sequence[Execution]) -> None:
        """These are no longer ours: handed back, or left to lapse."""
        with self.changed:
            lane.forget(executions)
            self.changed.notify_all()

    # The end.

    def stop(self) -> None:
        """Tell every thread."""
        self.stopping.set()
        self.wake()

    def wake(self) -> None:
        """Have whoever waits look again."""
        with self.changed:
            self.changed.notify_all()

    def take_unstarted(self, lane: Lane) -> list[Execution]:
        """What no batch has taken; it is forgotten here, and to be handed back."""
        with self.changed:
            unstarted = [
                one
                for one in lane.in_hand.values()
                if one.disposition is None and not one.started and one.tag not in self.running
            ]
            lane.take_all()
            lane.forget(unstarted)
        return unstarted

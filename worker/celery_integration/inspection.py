"""Presents the lanes to Celery's remote control: one request per leased job.

Filled when somebody looks, on the loop's thread, instead of job by job. What waits for its
time is held by no worker, and is read from Redis then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from celery.worker import state
from kombu.entity import Exchange, Queue

from common.jobs.message import TASK_NAME
from worker.celery_integration.revoked_stamps import RevokedStamps
from worker.jobs.execution import Execution
from worker.lanes.state import WorkerState
from worker.observability.parked import MAX_PARKED_LOOKED_AT, ParkedJob, ParkedJobs


class LaneRequest:
    """One leased job in the form of a Celery request."""

    __slots__ = (
        "__weakref__",
        "delivery_info",
        "eventer",
        "execution",
        "hostname",
        "id",
        "stamps",
        "task",
    )
    # Celery sets `eventer` on what runs when it has connected again.

    name = TASK_NAME
    args: tuple[Any, ...] = ()
    acknowledged = False
    eta = None
    _eta_timer_entry = None

    def __init__(self, execution: Execution, lane: str, hostname: str, task: Any) -> None:
        self.id = execution.job_id
        self.task = task
        self.execution = execution
        self.stamps = execution.stamps or {}
        self.hostname = hostname
        self.delivery_info = {"exchange": "", "routing_key": lane, "redelivered": execution.suspect}

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery passes it
        """What `inspect active|reserved|query_task` prints of the job; never its input."""
        began = _unix(self.execution.started) if self.execution.started else None
        return _request_info(self.id, self.hostname, self.delivery_info, began)

    def terminate(self, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing: a batch cannot be interrupted; the preceding cancel prevents publishing."""

    def cancel(self, *_args: Any, **_kwargs: Any) -> None:
        """As terminate."""

    def __repr__(self) -> str:
        return f"<LaneRequest {self.name}[{self.id}]>"


def _queue_info(lane: str) -> dict[str, Any]:
    exchange: Any = Exchange(lane)  # type: ignore[no-untyped-call]  # kombu has no types
    queue: Any = Queue(lane, exchange, routing_key=lane)  # type: ignore[no-untyped-call]
    return dict(queue.as_dict(recurse=True))


def _request_info(
    job_id: str, hostname: str, delivery_info: dict[str, Any], time_start: float | None
) -> dict[str, Any]:
    return {
        "id": job_id,
        "name": TASK_NAME,
        "args": [],
        "kwargs": {"model": delivery_info["routing_key"]},
        "type": TASK_NAME,
        "hostname": hostname,
        "time_start": time_start,
        "acknowledged": False,
        "delivery_info": delivery_info,
        "worker_pid": os.getpid(),
    }


def _unix(steady: float) -> float:
    return time.time() - (time.monotonic() - steady)


class CeleryState:
    """Fills Celery's worker state from the lanes. Call on the loop's thread only."""

    def __init__(
        self,
        lanes: WorkerState,
        parked: ParkedJobs,
        finished: Callable[[], int],
        hostname: str,
        task: Any,
    ) -> None:
        """finished returns the number of results published so far."""
        self._lanes = lanes
        self._parked = parked
        self._finished = finished
        self._task = task
        self._hostname = hostname
        self._requests: dict[bytes, LaneRequest] = {}
        self._counted = 0

    def refresh(self) -> None:
        """Set active, reserved and total to the current state of the lanes."""
        with self._lanes.lock:
            held = [
                (lane.name, one)
                for lane in self._lanes.lanes.values()
                for one in lane.in_hand.values()
                if one.disposition is None
            ]
            running = self._lanes.running
        known = self._requests
        self._requests = {
            one.tag: known.get(one.tag) or LaneRequest(one, lane, self._hostname, self._task)
            for lane, one in held
        }
        for gone in known.keys() - self._requests.keys():
            state.requests.pop(known[gone].id, None)
        state.reserved_requests.clear()
        state.active_requests.clear()
        for tag, request in self._requests.items():
            state.requests[request.id] = request
            state.reserved_requests.add(request)
            if tag in running:
                state.active_requests.add(request)
        self._count_finished()

    def running(self) -> list[tuple[str, Execution]]:
        """What is on the device, by lane."""
        with self._lanes.lock:
            return [
                (lane.name, one)
                for lane in self._lanes.lanes.values()
                for tag in self._lanes.running
                if (one := lane.in_hand.get(tag)) is not None and one.started
            ]

    def stamped(self, stamps: RevokedStamps) -> list[str]:
        """Whom of the jobs in hand these revoke."""
        with self._lanes.lock:
            held = [one for lane in self._lanes.lanes.values() for one in lane.in_hand.values()]
        return [one.job_id for one in held if one.stamps is not None and stamps.match(one.stamps)]

    def queues(self) -> list[dict[str, Any]]:
        """The lanes, as the queues that a worker consumes."""
        return [_queue_info(name) for name in self._lanes.lanes]

    def scheduled(self) -> list[dict[str, Any]]:
        """What waits for its time in the lanes; may raise RedisError."""
        return [
            {
                "eta": datetime.fromtimestamp(one.due_ms / 1000, UTC).isoformat(),
                "priority": one.priority,
                "request": self._info_of(one),
            }
            for one in self._parked.first(MAX_PARKED_LOOKED_AT)
        ]

    def query(self, job_ids: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """The state and the request of those that are in hand or wait for their time."""
        found = {}
        for job_id in job_ids:
            if (request := state.requests.get(job_id)) is not None:
                is_active = request in state.active_requests
                found[job_id] = ("active" if is_active else "reserved", request.info())
        others = [job_id for job_id in job_ids if job_id not in found]
        return found | {
            one.job_id: ("scheduled", self._info_of(one)) for one in self._parked.find(others)
        }

    def _info_of(self, parked: ParkedJob) -> dict[str, Any]:
        delivery = {"exchange": "", "routing_key": parked.lane, "redelivered": False}
        return _request_info(parked.job_id, self._hostname, delivery, None)

    def _count_finished(self) -> None:
        finished = self._finished()
        new, self._counted = finished - self._counted, finished
        if new:
            state.all_total_count[0] += new
            state.total_count[TASK_NAME] += new

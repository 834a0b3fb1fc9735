"""Presents the lanes to Celery's remote control: one request per leased job.

Filled on request, on the loop's thread, instead of job by job.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from celery.worker import state

from common.jobs.message import TASK_NAME
from worker.jobs.execution import Execution
from worker.lanes.state import WorkerState


class LaneRequest:
    """One leased job in the form of a Celery request."""

    __slots__ = ("__weakref__", "delivery_info", "execution", "hostname", "id", "task")

    name = TASK_NAME
    args: tuple[Any, ...] = ()
    acknowledged = False
    eta = None
    _eta_timer_entry = None
    stamps: dict[str, Any] = {}  # noqa: RUF012 - Celery reads it, nobody writes

    def __init__(self, execution: Execution, lane: str, hostname: str, task: Any) -> None:
        self.id = execution.job_id
        self.task = task
        self.execution = execution
        self.hostname = hostname
        self.delivery_info = {"exchange": "", "routing_key": lane, "redelivered": execution.suspect}

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery passes it
        """The job's fields in `inspect active|reserved|query_task`; never its input."""
        return {
            "id": self.id,
            "name": self.name,
            "args": [],
            "kwargs": {"model": self.delivery_info["routing_key"]},
            "type": self.name,
            "hostname": self.hostname,
            "time_start": _unix(self.execution.started) if self.execution.started else None,
            "acknowledged": False,
            "delivery_info": self.delivery_info,
            "worker_pid": os.getpid(),
        }

    def terminate(self, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing: a batch cannot be interrupted; the preceding cancel prevents publishing."""

    def cancel(self, *_args: Any, **_kwargs: Any) -> None:
        """As terminate."""

    def __repr__(self) -> str:
        return f"<LaneRequest {self.name}[{self.id}]>"


def _unix(steady: float) -> float:
    return time.time() - (time.monotonic() - steady)


class CeleryState:
    """Fills Celery's worker state from the lanes. Call on the loop's thread only."""

    def __init__(
        self, lanes: WorkerState, finished: Callable[[], int], hostname: str, task: Any
    ) -> None:
        """finished returns the number of results published so far."""
        self._lanes = lanes
        self._finished = finished
        self._task = task
        self._hostname = hostname
        self._requests: dict[bytes, LaneRequest] = {}
        self._counted = 0

    def refresh(self) -> None:
        """Set active, reserved and total to the current state of the lanes."""
        with self._lanes.changed:
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

    def _count_finished(self) -> None:
        finished = self._finished()
        new, self._counted = finished - self._counted, finished
        if new:
            state.all_total_count[0] += new
            state.total_count[TASK_NAME] += new

"""The Celery seam: lanes live inside a real Celery worker.

The worker consumes no queue through kombu; the lanes do that. What Celery
shows of a worker (inspect, revoke, heartbeats, events, Flower) is kept true:
its state is filled from the lanes when somebody looks, on the loop's thread,
instead of job by job. So it is exact, and costs nothing while nobody looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery, bootsteps, signals
from celery.worker import state
from celery.worker.control import Panel

from worker.celery_integration.task_events import EventSender
from worker.jobs.steps import TASK_NAME, Execution

if TYPE_CHECKING:
    from worker.engine import Engine

log = structlog.get_logger(__name__)

_LOOKS_AT_STATE = (
    "active",
    "dump_active",
    "reserved",
    "dump_reserved",
    "query_task",
    "stats",
    "heartbeat",
)


class LaneRequest:
    """One leased job as Celery's remote control sees a request."""

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
        """What `inspect active|reserved|query_task` prints of the job; never its input."""
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
        """A batch cannot be torn apart; the cancel that came before keeps it from publishing."""

    def cancel(self, *_args: Any, **_kwargs: Any) -> None:
        """As terminate."""

    def __repr__(self) -> str:
        return f"<LaneRequest {self.name}[{self.id}]>"


def _unix(steady: float) -> float:
    return time.time() - (time.monotonic() - steady)


class LaneState:
    """Fills Celery's worker state from the lanes. Call on the loop's thread only."""

    def __init__(self, engine: Engine, hostname: str, task: Any) -> None:
        self._engine = engine
        self._task = task
        self._hostname = hostname
        self._requests: dict[bytes, LaneRequest] = {}
        self._counted = 0

    def refresh(self) -> None:
        """Make active, reserved and total exactly what the lanes hold now."""
        with self._engine.changed:
            held = [
                (lane.name, one)
                for lane in self._engine.lanes.values()
                for one in lane.in_hand.values()
                if one.settled is None
            ]
            running = set(self._engine.runner.current)
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
        finished = self._engine.finisher.finished
        new, self._counted = finished - self._counted, finished
        if new:
            state.all_total_count[0] += new
            state.total_count[TASK_NAME] += new


class LanesStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Starts the engine before the consumer's loop and stops it after."""

    requires = ("celery.worker.components:Hub", "celery.worker.components:Timer")
    engine: Engine

    def __init__(self, worker: Any, **_: Any) -> None:
        self._worker = worker
        factory: Callable[[str], Engine] = worker.app.lanefleet_engine_factory
        self.engine = factory(worker.hostname)
        self.state = LaneState(self.engine, worker.hostname, worker.app.tasks[TASK_NAME])
        self.events = EventSender(self.engine, lambda: worker.consumer)
        worker.lanes = self

    def start(self, _worker: Any) -> None:
        """Start the lanes and take over what looks at worker state."""
        _wrap_panel(self)
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        _release_before_soft_shutdown(self._worker, self.engine)
        self.engine.on_batch = self.events.offer
        self.engine.start()

    def stop(self, _worker: Any) -> None:
        """Finish the running batch, hand back the rest."""
        self.engine.stop()

    terminate = stop

    def register_with_event_loop(self, _worker: Any, hub: Any) -> None:
        """After every (re)connect: keep heartbeats true and events flowing."""
        self.events.hub = hub
        hub.call_repeatedly(1.0, self.state.refresh)
        self.state.refresh()
        self.engine.on_the_bus = True

    def info(self, _worker: Any) -> dict[str, Any]:
        """Shown in `celery inspect stats`, under `lanefleet`."""
        lanes = {
            lane.name: {
                "in_hand": len(lane.in_hand),
                "batches": {str(size): count for size, count in lane.sizes.items()},
            }
            for lane in self.engine.lanes.values()
        }
        about = {"device": self.engine.device, "lanes": lanes, "events": self.events.info()}
        return {"lanefleet": about}

    def _on_shutting_down(self, **_: Any) -> None:
        self.engine.request_stop()


def _wrap_panel(step: LanesStep) -> None:
    """Refresh Celery's state before every command that reads it; cancel on revoke."""

    def refreshed(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def look(*args: Any, **kwargs: Any) -> Any:
            step.state.refresh()
            return command(*args, **kwargs)

        return look

    for name in _LOOKS_AT_STATE:
        Panel.data[name] = refreshed(Panel.data[name])
    original = Panel.data["revoke"]

    @wraps(original)
    def revoke(panel_state: Any, task_id: str | Iterable[str], **kwargs: Any) -> Any:
        kwargs.pop("terminate", None)  # a batch cannot be torn apart; a cancel suffices
        ids = [task_id] if isinstance(task_id, str) else list(task_id or ())
        for job_id in ids:
            step.engine.cancel(job_id)
        return original(panel_state, ids, **kwargs)

    Panel.data["revoke"] = revoke


def _release_before_soft_shutdown(worker: Any, engine: Engine) -> None:
    """Celery's soft shutdown sleeps in the signal handler; others get our unstarted jobs now."""
    wait = worker.wait_for_soft_shutdown

    def release_then_wait() -> None:
        engine.request_stop()
        wait()

    worker.wait_for_soft_shutdown = release_then_wait


def install(app: Celery, engine_factory: Callable[[str], Engine]) -> None:
    """Make workers of this app serve lanes; the factory takes the worker's node name."""
    app.lanefleet_engine_factory = engine_factory
    app.steps["worker"].add(LanesStep)

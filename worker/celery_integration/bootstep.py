"""The Celery seam: runs the lanes inside a real Celery worker.

The worker consumes no queue through kombu; the lanes do that. Celery's view of a worker
(inspect, revoke, heartbeats, events, Flower) stays correct: its state is filled from the lanes on
request, on the loop's thread, instead of job by job. So it is exact, and costs nothing without
requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery, bootsteps, signals

from common.jobs.message import TASK_NAME
from common.settings import Settings
from worker.celery_integration.inspection import CeleryState
from worker.celery_integration.remote_control import RemoteControl
from worker.celery_integration.revoked_stamps import RevokedStamps
from worker.celery_integration.task_events import TaskEvents
from worker.engine import Engine
from worker.observability.view import EventCounts
from worker.pipeline.finisher import Listener

log = structlog.get_logger(__name__)

EngineFactory = Callable[[str, Listener, EventCounts], Engine]
"""Creates the engine of a node, by the node's name."""


class LanesStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Starts the engine before the consumer's loop and stops it after."""

    requires = ("celery.worker.components:Hub", "celery.worker.components:Timer")

    def __init__(self, worker: Any, **_: Any) -> None:
        self._worker = worker
        settings: Settings = worker.app.lanefleet_settings
        factory: EngineFactory = worker.app.lanefleet_engine_factory
        counts = EventCounts()
        self.events = TaskEvents(
            worker.hostname, counts, settings.events_per_second, enabled=settings.events != "off"
        )
        self.events.consumer = lambda: worker.consumer
        self.engine = factory(worker.hostname, self.events.offer, counts)
        self.state = CeleryState(
            self.engine.state,
            self.engine.parked,
            lambda: self.engine.finisher.finished,
            worker.hostname,
            worker.app.tasks[TASK_NAME],
        )
        worker.lanes = self
        self._wakes, self._wake = os.pipe()

    def start(self, _worker: Any) -> None:
        """Start the lanes and take over what looks at worker state."""
        stamps: RevokedStamps = self._worker.app.lanefleet_revoked_stamps
        RemoteControl(self.engine, self.state, stamps).install()
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        _release_before_soft_shutdown(self._worker, self.engine)
        self.engine.start()

    def stop(self, _worker: Any) -> None:
        """Finish the running batch, release the other jobs."""
        self.engine.stop()

    terminate = stop

    def register_with_event_loop(self, _worker: Any, hub: Any) -> None:
        """After every (re)connect: keep heartbeats correct and send events."""
        self.events.hub = hub
        hub.add_reader(self._wakes, os.read, self._wakes, 1)
        hub.call_repeatedly(1.0, self._tick)
        self.state.refresh()
        self.engine.on_the_bus = True

    def _tick(self) -> None:
        self.state.refresh()
        if self.events.watched:
            self.events.announce(self.state.running())

    def info(self, _worker: Any) -> dict[str, Any]:
        """Shown in `celery inspect stats`, under `lanefleet`."""
        lanes = {
            lane.name: {
                "in_hand": len(lane.in_hand),
                "batches": {str(size): count for size, count in lane.stats.sizes.items()},
            }
            for lane in self.engine.lanes.values()
        }
        about = {"device": self.engine.device, "lanes": lanes, "events": self.events.info()}
        return {"lanefleet": about}

    def _on_shutting_down(self, **_: Any) -> None:
        os.write(self._wake, b"\0")  # the loop sleeps through a signal, until its next timer
        self.engine.request_stop()


def _release_before_soft_shutdown(worker: Any, engine: Engine) -> None:
    """Release unstarted jobs now, as Celery's soft shutdown sleeps in the signal handler."""
    wait = worker.wait_for_soft_shutdown

    def release_then_wait() -> None:
        engine.request_stop()
        wait()

    worker.wait_for_soft_shutdown = release_then_wait


def install(
    app: Celery, settings: Settings, engine_factory: EngineFactory, stamps: RevokedStamps
) -> None:
    """Make workers of this app serve lanes; stamps is what the engine asks too."""
    app.lanefleet_revoked_stamps = stamps
    app.lanefleet_settings = settings
    app.lanefleet_engine_factory = engine_factory
    app.steps["worker"].add(LanesStep)

"""Celery task events for the jobs of a batch, many in one message.

They are sent only while somebody watches (Flower turns them on), on the
loop's thread, through the dispatcher that Celery owns. Above
`events_per_second` jobs are sampled, and the sampling is told in
`inspect stats`, so that nobody takes the sample for the whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from worker.pipeline import TASK_NAME, Execution, describe

if TYPE_CHECKING:
    from worker.engine import Engine

log = structlog.get_logger(__name__)


class EventSender:
    """Takes published batches from the finisher, sends their events from the loop."""

    def __init__(self, engine: Engine, consumer: Callable[[], Any]) -> None:
        self._engine = engine
        self._consumer = consumer
        self._lock = threading.Lock()
        self._waiting: list[dict[str, Any]] = []
        self._window_began = 0.0
        self._in_window = 0
        self.hub: Any = None
        self.sent_jobs = 0
        self.skipped_jobs = 0

    def info(self) -> dict[str, Any]:
        """How many jobs' events were sent, and how many were left out by sampling."""
        return {
            "enabled": self._dispatcher() is not None,
            "jobs_sent": self.sent_jobs,
            "jobs_sampled_out": self.skipped_jobs,
            "max_jobs_per_second": self._engine.settings.events_per_second,
        }

    def offer(self, lane: str, executions: Sequence[Execution]) -> None:
        """Called by the finisher after publishing; returns at once when nobody watches."""
        if self.hub is None or self._dispatcher() is None:
            return
        taken = executions[: self._allowance(len(executions))]
        self.skipped_jobs += len(executions) - len(taken)
        self.sent_jobs += len(taken)
        events = [event for one in taken for event in self._events_of(lane, one)]
        if not events:
            return
        with self._lock:
            self._waiting += events
        self.hub.call_soon(self._send)

    def _allowance(self, wanted: int) -> int:
        now = time.monotonic()
        if now - self._window_began >= 1.0:
            self._window_began, self._in_window = now, 0
        allowed = min(wanted, max(0, self._engine.settings.events_per_second - self._in_window))
        self._in_window += allowed
        return allowed

    def _dispatcher(self) -> Any:
        if self._engine.settings.events == "off":
            return None
        consumer = self._consumer()
        dispatcher = getattr(consumer, "event_dispatcher", None)
        if dispatcher is None or not dispatcher.enabled:
            return None
        watched = not dispatcher.groups or "task" in dispatcher.groups
        return dispatcher if watched else None

    def _events_of(self, lane: str, execution: Execution) -> list[dict[str, Any]]:
        unix_offset = time.time() - time.monotonic()
        common = {
            "uuid": execution.job_id,
            "hostname": self._engine.worker,
            "pid": os.getpid(),
            "utcoffset": time.timezone // 3600,
            "clock": 0,
        }
        received = {
            **common,
            "type": "task-received",
            "timestamp": execution.arrived + unix_offset,
            "name": TASK_NAME,
            "args": "()",
            "kwargs": f"{{'model': '{lane}'}}",
            "root_id": execution.job_id,
            "parent_id": None,
            "retries": execution.attempt - 1,
            "eta": None,
            "expires": None,
        }
        started = {
            **common,
            "type": "task-started",
            "timestamp": (execution.started or execution.arrived) + unix_offset,
        }
        return [received, started, {**common, **self._ending(execution)}]

    @staticmethod
    def _ending(execution: Execution) -> dict[str, Any]:
        now = time.time()
        if execution.settled == "succeeded":
            runtime = time.monotonic() - (execution.started or execution.arrived)
            return {
                "type": "task-succeeded",
                "timestamp": now,
                "runtime": runtime,
                "result": f"<{len(execution.meta)} bytes>",
            }
        if execution.settled in ("canceled", "expired"):
            return {
                "type": "task-revoked",
                "timestamp": now,
                "terminated": False,
                "signum": None,
                "expired": execution.settled == "expired",
            }
        if execution.settled == "parked":
            return {
                "type": "task-retried",
                "timestamp": now,
                "exception": describe(execution) if execution.error else "not due yet",
                "traceback": "",
            }
        return {
            "type": "task-failed",
            "timestamp": now,
            "exception": describe(execution) if execution.error else "",
            "traceback": "",
        }

    def _send(self) -> None:
        """On the loop's thread: everything that waits goes out in one message."""
        with self._lock:
            events, self._waiting = self._waiting, []
        dispatcher = self._dispatcher()
        if not events or dispatcher is None:
            return
        for event in events:
            event["clock"] = dispatcher.clock.forward()
        # Encoded here: Celery's own way spends most of an event on its JSON encoder.
        body = orjson.dumps(events).decode()
        with dispatcher.mutex:
            if dispatcher.producer is not None:
                dispatcher.producer.publish(
                    body,
                    routing_key="task.multi",
                    exchange=dispatcher.exchange.name,
                    declare=[dispatcher.exchange],
                    content_type="application/json",
                    content_encoding="utf-8",
                    headers=dispatcher.headers,
                    delivery_mode=dispatcher.delivery_mode,
                )

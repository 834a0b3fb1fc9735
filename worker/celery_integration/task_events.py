"""Celery task events for the jobs of a batch, many in one message.

They are sent only while events are enabled (Flower enables them), on the loop's thread, through
Celery's dispatcher. Above `events_per_second` jobs are sampled, and `inspect stats` reports the
sampling, so that the sample is not mistaken for all jobs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import structlog

from worker.jobs.execution import Execution, Hold, Retry, describe
from worker.observability.view import EventCounts
from worker.pipeline.finisher import Published

log = structlog.get_logger(__name__)

_EVENTS_A_JOB = 3
_BEGINNING = (
    '{"uuid":%%s,"root_id":%%s,"timestamp":%%.6f,"clock":%%d,"retries":%%d,'
    '"type":"task-received","name":"infer","args":"()","kwargs":"{\'model\': \'%(lane)s\'}",'
    '"parent_id":null,"eta":null,"expires":null,%(common)s},'
    '{"uuid":%%s,"timestamp":%%.6f,"clock":%%d,"type":"task-started",%(common)s}'
)
_SUCCEEDED = '"type":"task-succeeded","runtime":%.6f,"result":"<%d bytes>"}'


class TaskEvents:
    """Receives published batches from the finisher, and sends their events from the loop."""

    def __init__(
        self, worker: str, counts: EventCounts, events_per_second: int, *, enabled: bool
    ) -> None:
        """worker is the name in the events."""
        self._worker = worker
        self._counts = counts
        self._max_per_second = events_per_second
        self._enabled = enabled
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._window_began = 0.0
        self._in_window = 0
        self.hub: Any = None
        self.consumer: Callable[[], Any] = lambda: None
        """Both set by Celery's step, before anything can be sent."""

    @property
    def watched(self) -> bool:
        """Whether anybody wants events."""
        return self._dispatcher() is not None

    def info(self) -> dict[str, Any]:
        """The numbers of jobs whose events were sent and whose were left out by sampling."""
        return {
            "enabled": self._dispatcher() is not None,
            "jobs_sent": self._counts.sent,
            "jobs_sampled_out": self._counts.sampled_out,
            "max_jobs_per_second": self._max_per_second,
        }

    def offer(self, published: Published) -> None:
        """Queue the events of a published group; a listener of the finisher. Returns at once while
        events are disabled.
        """
        dispatcher = self._dispatcher()
        if self.hub is None or dispatcher is None:
            return
        executions = published.executions
        taken = executions[: self._allowance(len(executions))]
        self._counts.sampled_out += len(executions) - len(taken)
        self._counts.sent += len(taken)
        if not taken:
            return
        clock = self._take_clock(dispatcher, _EVENTS_A_JOB * len(taken))
        self._queue(self._events_of(published.lane.name, taken, clock))

    def announce(self, running: Sequence[tuple[str, Execution]]) -> None:
        """Send the beginning of these, by lane, which have run for a while: so that who watches
        knows of them before their end. Call it on the loop's thread.
        """
        dispatcher = self._dispatcher()
        new = [(lane, one) for lane, one in running if not one.announced]
        if self.hub is None or dispatcher is None or not new:
            return
        taken = new[: self._allowance(len(new))]
        clock = self._take_clock(dispatcher, _EVENTS_A_JOB * len(taken))
        texts, offset = [], time.time() - time.monotonic()
        for lane, one in taken:
            one.announced = True
            texts.append(_begin(self._template(lane), one, offset, clock))
            clock += _EVENTS_A_JOB
        if texts:
            self._queue(",".join(texts))

    @staticmethod
    def _take_clock(dispatcher: Any, count: int) -> int:
        """The first of so many ticks."""
        clock: int = dispatcher.clock.forward()
        dispatcher.clock.adjust(clock + count - 2)  # which adds one: the last of ours
        return clock

    def _queue(self, text: str) -> None:
        with self._lock:
            self._waiting.append(text)
        self.hub.call_soon(self._send)

    def _allowance(self, wanted: int) -> int:
        now = time.monotonic()
        if now - self._window_began >= 1.0:
            self._window_began, self._in_window = now, 0
        allowed = min(wanted, max(0, self._max_per_second - self._in_window))
        self._in_window += allowed
        return allowed

    def _dispatcher(self) -> Any:
        if not self._enabled:
            return None
        consumer = self.consumer()
        dispatcher = getattr(consumer, "event_dispatcher", None)
        if dispatcher is None or not dispatcher.enabled:
            return None
        watched = not dispatcher.groups or "task" in dispatcher.groups
        return dispatcher if watched else None

    def _events_of(self, lane: str, executions: Sequence[Execution], clock: int) -> str:
        """The events as JSON, comma-separated; formatted, as their objects would cost 10 us."""
        common, beginning = self._common(), self._template(lane)
        now, steady = time.time(), time.monotonic()
        offset = now - steady
        parts = []
        for one in executions:
            uuid = orjson.dumps(one.job_id).decode()
            started = (one.started or one.arrived) + offset
            if one.disposition == "succeeded":
                ending = _SUCCEEDED % (now - started, len(one.meta))
            else:
                ending = orjson.dumps(self._ending(one)).decode()[1:]
            if not one.announced:
                parts.append(_begin(beginning, one, offset, clock))
            trace = orjson.dumps(one.traceparent).decode() if one.traceparent else ""
            traced = f'"traceparent":{trace},' if trace else ""
            parts.append(
                f'{{"uuid":{uuid},"timestamp":{now:.6f},"clock":{clock + 2},{common},'
                f"{traced}{ending}"
            )
            clock += _EVENTS_A_JOB
        return ",".join(parts)

    def _common(self) -> str:
        about = {
            "hostname": self._worker,
            "pid": os.getpid(),
            "utcoffset": time.timezone // 3600,
        }
        return orjson.dumps(about).decode()[1:-1]

    def _template(self, lane: str) -> str:
        """How a job of this lane begins, to be filled in by `_begin`."""
        return _BEGINNING % {"lane": lane, "common": self._common().replace("%", "%%")}

    @staticmethod
    def _ending(execution: Execution) -> dict[str, Any]:
        if execution.disposition in ("canceled", "expired"):
            return {
                "type": "task-revoked",
                "terminated": False,
                "signum": None,
                "expired": execution.disposition == "expired",
            }
        exception = describe(execution) if execution.error is not None else ""
        if isinstance(execution.disposition, Retry | Hold):
            return {
                "type": "task-retried",
                "exception": exception or "not due yet",
                "traceback": "",
            }
        return {"type": "task-failed", "exception": exception, "traceback": ""}

    def _send(self) -> None:
        """Send all queued events in one message; on the loop's thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        dispatcher = self._dispatcher()
        if not waiting or dispatcher is None:
            return
        # Encoded here: Celery spends most of the time of an event in its JSON encoder.
        body = f"[{','.join(waiting)}]"
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


def _begin(template: str, one: Execution, offset: float, clock: int) -> str:
    uuid = orjson.dumps(one.job_id).decode()
    arrived, started = one.arrived + offset, (one.started or one.arrived) + offset
    return template % (uuid, uuid, arrived, clock, one.attempt - 1, uuid, started, clock + 1)

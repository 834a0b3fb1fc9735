"""A `process` span for each batch with a traced job, linked to what was sent.

Its trace is that of its first traced job, so that one trace leads from a request over the queue
into the batch; all other traces reach it by their links. Made once a batch is published, as a
listener of the finisher: without traces there is no such listener.
"""

from __future__ import annotations

import time

import structlog

from common.trace import is_sampled
from common.tracing.spans import MAX_LINKS, MESSAGING, Tracing, set_error
from worker.jobs.execution import Execution, Hold, Retry, reason_of
from worker.pipeline.finisher import Listener, Published

log = structlog.get_logger(__name__)


class BatchSpans:
    """Listens to what is published."""

    def __init__(self, tracing: Tracing, worker: str) -> None:
        """worker is its node name, said in each span."""
        self._tracing = tracing
        self._worker = worker

    def beside(self, listener: Listener) -> Listener:
        """A listener that tells this one as well."""

        def both(published: Published) -> None:
            listener(published)
            self.offer(published)

        return both

    def offer(self, published: Published) -> None:
        """Make the span of a batch, where one of its jobs is traced."""
        traced = [one for one in published.executions if is_sampled(one.traceparent)]
        if not traced:
            return
        lane, size = published.lane, len(published.executions)
        about = {
            **MESSAGING,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": lane.name,
            "messaging.batch.message_count": size,
            "messaging.client.id": self._worker,
            "gen_ai.request.model": lane.spec.name,
        }
        if lane.spec.task == "embed":
            about["gen_ai.operation.name"] = "embeddings"
        if size == 1:
            about["messaging.message.id"] = traced[0].job_id
        links = [(one.traceparent, _about(one)) for one in traced[:MAX_LINKS]]
        span = self._tracing.start(
            f"process {lane.name}",
            "CONSUMER",
            traced[0].traceparent,
            about,
            links=links,
            start_ns=_unix_ns(min(one.arrived for one in traced)),
        )
        if span is None:
            return
        if began := min((one.started for one in traced if one.started), default=0.0):
            span.add_event("infer", timestamp=_unix_ns(began))
        failed = [one for one in published.executions if one.disposition == "failed"]
        if len(failed) == size:
            set_error(span, reason_of(failed[0]))
        span.end()


def _about(execution: Execution) -> dict[str, str]:
    disposition = execution.disposition
    outcome = "parked" if isinstance(disposition, Retry | Hold) else str(disposition)
    return {"messaging.message.id": execution.job_id, "lanefleet.outcome": outcome}


def _unix_ns(steady: float) -> int:
    return time.time_ns() - int((time.monotonic() - steady) * 1e9)

"""A publisher that makes a `send` span of each call, whose context its messages carry."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from api.jobs.publisher import Publisher
from common.errors import Refused
from common.jobs.job import Job
from common.tracing.spans import Tracing


class TracedPublisher(Publisher):
    """Built instead of the other where traces are on."""

    def __init__(self, tracing: Tracing, *args: Any) -> None:
        """args are the publisher's own."""
        super().__init__(*args)
        self._tracing = tracing

    async def publish(self, job: Job) -> int:
        """As the publisher does, in a span of its own."""
        about = {"messaging.message.id": job.id}
        with self._tracing.sending(job.model, job.traceparent, about) as context:
            return await super().publish(replace(job, traceparent=context))

    async def publish_all(self, jobs: Sequence[Job]) -> list[int | Refused]:
        """As the publisher does, with one span for the jobs of each lane and trace."""
        counts: dict[tuple[str, str], int] = {}
        for job in jobs:
            if job.traceparent:
                one = (job.model, job.traceparent)
                counts[one] = counts.get(one, 0) + 1
        if not counts:
            return await super().publish_all(jobs)
        with ExitStack() as spans:
            contexts = {
                (lane, parent): spans.enter_context(
                    self._tracing.sending(lane, parent, {"messaging.batch.message_count": count})
                )
                for (lane, parent), count in counts.items()
            }
            traced = [
                replace(job, traceparent=contexts.get((job.model, job.traceparent), ""))
                for job in jobs
            ]
            return await super().publish_all(traced)

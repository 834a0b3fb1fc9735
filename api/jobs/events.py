"""A job's life as server-sent events, derived from its state alone.

Nothing is logged anywhere: what there is to tell, and under which ids, follows
from the record, so any replica at any time tells the same story, and
`Last-Event-ID` means the same to all of them. An id is the moment the job was
queued, which a retry renews, and a step: 0 queued, 1 first run, 2 queued
again, 3 second run, ... `end`. Steps that passed unseen are told late rather
than not at all, as far as the record still knows them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from api.jobs.views import QueuePosition, view_json
from common.jobs.record import JobRecord, JobState

HEARTBEAT = b": still here\n\n"
_END = math.inf
_ID = re.compile(r"(\d+)-(\d{1,9}|end)")


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One step of a job: the state it entered, and the job as it was then."""

    record: JobRecord
    step: float

    @property
    def id(self) -> str:
        """The same on every replica."""
        step = "end" if self.step == _END else f"{self.step:.0f}"
        return f"{self.record.created_ms or 0}-{step}"

    def encode(self, position: QueuePosition | None = None) -> bytes:
        """The event as it is sent; its data is the view of the job, one line of JSON."""
        return b"event: %s\nid: %s\ndata: %s\n\n" % (
            self.record.state.encode(),
            self.id.encode(),
            view_json(self.record, position),
        )


def history(record: JobRecord) -> list[JobEvent]:
    """Everything that this record tells of its job, in order; the last is how it stands."""
    attempts = record.attempts
    if record.state is JobState.QUEUED:
        return [JobEvent(record, 2 * attempts)]
    queued = replace(_open(record), state=JobState.QUEUED, attempts=0, started_ms=None, worker=None)
    told = [JobEvent(queued, 0)]
    if record.state is JobState.RUNNING:
        told.append(JobEvent(record, 2 * attempts - 1))
        return told
    if record.started_ms and attempts:
        running = replace(_open(record), state=JobState.RUNNING)
        told.append(JobEvent(running, 2 * attempts - 1))
    told.append(JobEvent(record, _END))
    return told


def news(record: JobRecord, last_id: str | None) -> list[JobEvent]:
    """What somebody who last heard `last_id` has not been told; empty when there is nothing."""
    told = history(record)
    ids = [event.id for event in told]
    if last_id in ids:
        return told[ids.index(last_id) + 1 :]
    heard = _ID.fullmatch(last_id or "")
    if not heard or heard.group(1) != str(record.created_ms or 0):
        return told
    step = _END if heard.group(2) == "end" else int(heard.group(2))
    # A run that was handed back uncounted takes the job to an earlier step than was heard.
    return [event for event in told if event.step > step] or told[-1:]


def _open(record: JobRecord) -> JobRecord:
    """The record less what only its end brought."""
    return replace(
        record,
        finished_ms=None,
        version=None,
        batch_size=None,
        infer_ms=None,
        reason=None,
        error=None,
        result=None,
    )

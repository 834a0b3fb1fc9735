"""A job's life as server-sent events, derived from its state alone.

No event log is stored: the events and their ids are derived from the record, so every
replica sends the same events at any time, and `Last-Event-ID` means the same to all of
them. An id is the time when the job was queued, which a retry renews, and a step: 0 queued,
1 first run, 2 queued again, 3 second run, ... `end`. Steps that were missed are sent late,
as far as the record still contains them. Where text was sent as well, how much follows
(api/jobs/progress.py).
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
ID_CHARACTERS = 256
"""Of the longest id, which tells the progress of 16 choices."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One step of a job: the state it entered, and the job's record at that step."""

    record: JobRecord
    step: float

    @property
    def id(self) -> str:
        """The event's id, equal on every replica."""
        step = "end" if self.step == _END else f"{self.step:.0f}"
        return f"{self.record.created_ms or 0}-{step}"

    def encode(self, position: QueuePosition | None = None, progress: str = "") -> bytes:
        """Encode the event; its data is the view of the job, one line of JSON."""
        return b"event: %s\nid: %s%s\ndata: %s\n\n" % (
            self.record.state.encode(),
            self.id.encode(),
            progress.encode(),
            view_json(self.record, position),
        )


def history(record: JobRecord) -> list[JobEvent]:
    """All events derived from this record, in order; the last is the current state."""
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
    """The events after `last_id`, the last one the client received; empty when there are none."""
    told = history(record)
    ids = [event.id for event in told]
    if last_id in ids:
        return told[ids.index(last_id) + 1 :]
    heard = _ID.fullmatch(last_id or "")
    if not heard or heard.group(1) != str(record.created_ms or 0):
        return told
    step = _END if heard.group(2) == "end" else int(heard.group(2))
    # A lease that was released uncounted returns the job to an earlier step than was sent.
    return [event for event in told if event.step > step] or told[-1:]


def _open(record: JobRecord) -> JobRecord:
    """The record without the fields that its end has set."""
    return replace(
        record,
        finished_ms=None,
        version=None,
        computed_by=None,
        batch_size=None,
        infer_ms=None,
        reason=None,
        error=None,
        result=None,
    )

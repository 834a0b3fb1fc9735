"""The public view of a job: the models of responses, and hand-written JSON on the hot path."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from pydantic import BaseModel, Field

from api.cache.result_cache import Hit
from api.http.timestamps import moment
from api.jobs.links import job_links, open_links
from common.jobs.record import JobRecord, JobState


class Links(BaseModel):
    """Where to go next; a link that is absent would not work now."""

    self: str
    result: str
    events: str
    cancel: str | None = None
    retry: str | None = None


class JobFailure(BaseModel):
    """Why a job did not succeed."""

    reason: str = Field(description="Stable and machine-readable.")
    message: str = Field(description="One sentence for people.")


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a waiting job stands in its lane."""

    ahead: int
    """Jobs that will be served before it, about."""
    start_ms: int | None
    """When it should start, Unix ms; None while the lane's pace is not known."""


class JobView(BaseModel):
    """A job as clients see it."""

    id: str
    model: str
    state: JobState
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    queue_position: int | None = Field(
        None, description="While queued: about how many jobs will be served before it."
    )
    estimated_start_at: datetime | None = Field(
        None, description="While queued: when it should start at the pace of the last seconds."
    )
    batch_size: int | None = Field(None, description="Jobs that ran in the same batch.")
    infer_ms: float | None = Field(None, description="How long that batch ran on the device.")
    worker: str | None = None
    version: str | None = Field(None, description="Version of the model that ran it.")
    cached: bool | None = Field(
        None, description="true where the result was kept from an earlier job."
    )
    age: int | None = Field(None, description="How old a kept result was, in seconds.")
    shared: bool | None = Field(
        None, description="true where an identical job that was under way ran for this one."
    )
    labels: dict[str, str] | None = Field(
        None, description="As they were sent, of one job and in the list of jobs."
    )
    result: Any = None
    error: JobFailure | None = None
    notice: str | None = Field(None, description="What to know of a job that waits.")
    links: Links

    @classmethod
    def of(
        cls, record: JobRecord, position: QueuePosition | None = None, notice: str | None = None
    ) -> JobView:
        """The view of a record."""
        failure = None
        if record.reason:
            failure = JobFailure(reason=record.reason, message=record.error or record.reason)
        return cls(
            id=record.id,
            model=record.lane,
            state=record.state,
            created_at=moment(record.created_ms),
            started_at=moment(record.started_ms),
            finished_at=moment(record.finished_ms),
            attempts=record.attempts,
            queue_position=position.ahead if position else None,
            estimated_start_at=moment(position.start_ms) if position else None,
            batch_size=record.batch_size,
            infer_ms=record.infer_ms,
            worker=record.worker,
            version=record.version,
            cached=record.cached or None,
            age=record.age_seconds,
            shared=record.shared or None,
            labels=_labels_of(record),
            result=record.value,
            error=failure,
            notice=notice,
            links=Links(**job_links(record.id, record.state, record.reason)),
        )


def _labels_of(record: JobRecord) -> dict[str, str] | None:
    if not record.labels:
        return None
    return dict(pair.split("=", 1) for pair in record.labels.split(","))


class ListLinks(BaseModel):
    """Where the list goes on."""

    next: str | None = None


class JobList(BaseModel):
    """One page of jobs."""

    jobs: list[JobView]
    next_cursor: str | None = Field(None, description="Absent on the last page.")
    links: ListLinks


def view_json(
    record: JobRecord, position: QueuePosition | None = None, notice: str | None = None
) -> bytes:
    """The view of a record as JSON, without unknown fields.

    Hand-written, as pydantic takes five times as long, and twice for a vector of 384 numbers; a
    test compares it with pydantic's output.
    """
    view = {
        "id": record.id,
        "model": record.lane,
        "state": record.state,
        "created_at": moment(record.created_ms),
        "started_at": moment(record.started_ms),
        "finished_at": moment(record.finished_ms),
        "attempts": record.attempts,
        "queue_position": position.ahead if position else None,
        "estimated_start_at": moment(position.start_ms) if position else None,
        "batch_size": record.batch_size,
        "infer_ms": record.infer_ms,
        "worker": record.worker,
        "version": record.version,
        "cached": record.cached or None,
        "age": record.age_seconds,
        "shared": record.shared or None,
        "labels": _labels_of(record),
        "result": record.result,
        "notice": notice,
        "links": job_links(record.id, record.state, record.reason),
    }
    known = {name: value for name, value in view.items() if value is not None}
    if record.reason:
        links = known.pop("links")
        known["error"] = {"reason": record.reason, "message": record.error or record.reason}
        known["links"] = links
    try:
        return orjson.dumps(known, option=orjson.OPT_UTC_Z)
    except TypeError:  # a number beyond 64 bits, which another Celery worker may have stored
        return JobView.of(record, position, notice).model_dump_json(exclude_none=True).encode()


def queued_json(record: JobRecord, path: str, notice: str | None = None) -> bytes:
    """The view of a job queued now, at this path; hand-written, as pydantic would take 17 us for
    its few fields.
    """
    view = {
        "id": record.id,
        "model": record.lane,
        "state": record.state,
        "created_at": moment(record.created_ms),
        "attempts": record.attempts,
        "links": open_links(path),
    }
    if notice:
        view["notice"] = notice
    return orjson.dumps(view, option=orjson.OPT_UTC_Z)


def hit_json(hit: Hit) -> bytes:
    """The view of a job that was answered from the cache, without parsing its result."""
    at = moment(hit.at_ms)
    view = {
        "id": hit.job_id,
        "model": hit.lane,
        "state": JobState.SUCCEEDED,
        "created_at": at,
        "finished_at": at,
        "attempts": 0,
        "version": hit.entry.version,
        "cached": True,
        "age": hit.age_seconds,
    }
    links = job_links(hit.job_id, JobState.SUCCEEDED, None)
    head = orjson.dumps(view, option=orjson.OPT_UTC_Z)[:-1]
    return b'%b,"result":%b,"links":%b}' % (head, hit.entry.result, orjson.dumps(links))

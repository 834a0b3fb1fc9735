"""A job, its states and the transitions that are legal between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import uuid4


class JobState(StrEnum):
    """Where a job stands. The last four are terminal: nothing leaves them."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether the job is settled for good."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(
        {JobState.RUNNING, JobState.FAILED, JobState.CANCELED, JobState.EXPIRED}
    ),
    JobState.RUNNING: frozenset(
        {
            JobState.QUEUED,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELED,
            JobState.EXPIRED,
        }
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELED: frozenset(),
    JobState.EXPIRED: frozenset(),
}


def new_job_id() -> str:
    """A fresh id: a random UUID, as Celery's task ids are."""
    return str(uuid4())


@dataclass(frozen=True, slots=True)
class Job:
    """One inference request, before it is published."""

    model: str
    input: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_job_id)
    priority: int = 0
    """Celery priority 0-9; 0 is served first."""
    start_by_ms: int | None = None
    """Unix time in milliseconds after which the job must not start."""
    deadline_ms: int | None = None
    """Unix time in milliseconds after which the job must not publish a result either."""
    blob: bytes | None = None
    """A large input that travels beside the message."""

    @property
    def expires_ms(self) -> int | None:
        """When the job expires if it has not started; the earlier of its two limits."""
        limits = [limit for limit in (self.start_by_ms, self.deadline_ms) if limit is not None]
        return min(limits) if limits else None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is known of a job: its record and, once settled, its result. Times are Unix ms."""

    id: str
    state: JobState
    lane: str
    created_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    attempts: int = 0
    worker: str | None = None
    batch_size: int | None = None
    infer_ms: float | None = None
    reason: str | None = None
    error: str | None = None
    result: Any = None

    @classmethod
    def parse(cls, job_id: str, fields: Mapping[bytes, bytes], result: Any) -> JobRecord:
        """Read the record's hash as Redis returns it."""
        text = {key.decode(): value.decode("utf-8", "replace") for key, value in fields.items()}

        def number(name: str) -> int | None:
            return int(float(text[name])) if name in text else None

        return cls(
            id=job_id,
            state=JobState(text["state"]),
            lane=text.get("lane", ""),
            created_ms=number("created_ms"),
            started_ms=number("started_ms"),
            finished_ms=number("finished_ms"),
            attempts=number("attempts") or 0,
            worker=text.get("worker"),
            batch_size=number("batch"),
            infer_ms=float(text["infer_ms"]) if "infer_ms" in text else None,
            reason=text.get("reason"),
            error=text.get("error"),
            result=result,
        )

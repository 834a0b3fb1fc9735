"""Parses a job's state in Redis: its live record or, once settled, its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson


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


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job's state: its record or, once settled, its result. Times are Unix ms."""

    id: str
    state: JobState
    lane: str
    created_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    attempts: int = 0
    worker: str | None = None
    version: str | None = None
    """The version of the model that ran it; its alias may have moved since."""
    computed_by: str | None = None
    """Backend, precision and weights digest of that model, where it names them."""
    batch_size: int | None = None
    infer_ms: float | None = None
    reason: str | None = None
    error: str | None = None
    result: Any = None
    """A large one is an orjson.Fragment, which orjson writes as it is; `value` parses it."""
    cached: bool = False
    """Whether the result came from the cache."""
    age_seconds: int | None = None
    """The age of the cached result at that time."""
    shared: bool = False
    """Whether the result is of an identical job's run."""
    tenant: str = ""
    labels: str = ""
    """`key=value,...`; they are in the index of jobs, not in the record."""
    leader: str = ""
    """While it follows an identical job: that one, which may follow another."""

    @property
    def value(self) -> Any:
        """The result, parsed."""
        result = self.result
        return orjson.loads(orjson.dumps(result)) if type(result) is orjson.Fragment else result

    @classmethod
    def read(cls, job_id: str, record: bytes | None, meta: bytes | None) -> JobRecord | None:
        """Parse a job's live record and its result; None without both."""
        if meta:
            settled = cls._settled(job_id, _loads(meta))
            if record and not settled.tenant:  # another Celery worker's result has no tenant
                owner = b"".join(record.split(b" ", 3)[2:3]).partition(b":")[2]
                return replace(settled, tenant=owner.decode()) if owner else settled
            return settled
        if not record:
            return None
        words = record.decode("utf-8", "replace").split(" ", 9)
        state, lane, origin, _deadline, attempts, _deliveries, tag, started, worker, _error = (
            words + ["0"] * (10 - len(words))
        )
        leased = state == "r"
        created, _, tenant = origin.partition(":")
        return cls(
            id=job_id,
            state=_LETTERS[state],
            lane=lane,
            created_ms=int(created) or None,
            started_ms=int(started) or None,
            attempts=max(int(attempts), int(leased)),
            worker=worker if leased else None,
            tenant=tenant,
            leader=tag if state == "w" else "",
        )

    @classmethod
    def _settled(cls, job_id: str, meta: Mapping[str, Any]) -> JobRecord:
        """Build it from the result alone; one stored by another Celery worker has fewer fields."""
        about = meta.get("lanefleet") or {}
        state = JobState(about.get("state") or _CELERY_STATES.get(meta["status"], "running"))
        return cls(
            id=job_id,
            state=state,
            lane=about.get("lane", ""),
            created_ms=about.get("created_ms"),
            started_ms=about.get("started_ms"),
            finished_ms=about.get("finished_ms"),
            attempts=about.get("attempts", 0),
            worker=about.get("worker"),
            version=about.get("version"),
            computed_by=about.get("computed_by"),
            batch_size=about.get("batch_size"),
            infer_ms=about.get("infer_ms"),
            reason=about.get("reason"),
            error=about.get("error"),
            tenant=about.get("tenant", ""),
            result=meta.get("result") if state is JobState.SUCCEEDED else None,
            cached=about.get("cached", False),
            age_seconds=about.get("age"),
            shared=about.get("shared", False),
        )


_LARGE_BYTES = 64 * 1024
BEFORE_RESULT = b'{"status":"SUCCESS","result":'
AFTER_RESULT = b',"traceback":null,"children":['
"""Around what the model returned, in a success as result_document.py writes it."""


def _loads(raw: bytes) -> Any:
    """The document; the result of a large one of ours stays JSON.

    To parse 20 MB of numbers, only to write them again, held the API's loop up for a second.
    """
    end = raw.rfind(AFTER_RESULT) if len(raw) > _LARGE_BYTES else -1
    if end > 0 and raw.startswith(BEFORE_RESULT):
        document = orjson.loads(b"{" + raw[end + 1 :])
        if "lanefleet" in document:
            result = orjson.Fragment(raw[len(BEFORE_RESULT) : end])
            return {"status": "SUCCESS", "result": result, **document}
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)  # accepts NaN, which another Celery worker may have stored


_LETTERS: Mapping[str, JobState] = {
    "q": JobState.QUEUED,
    "r": JobState.RUNNING,
    "x": JobState.CANCELED,
    "w": JobState.QUEUED,
}


_CELERY_STATES: Mapping[str, str] = {
    "PENDING": "queued",
    "SUCCESS": "succeeded",
    "FAILURE": "failed",
    "REVOKED": "canceled",
}

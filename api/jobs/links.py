"""The links of a job: absolute paths, only of requests that would succeed now."""

from __future__ import annotations

import re
from urllib.parse import quote

from api.http.request_context import current_root
from common.jobs.record import JobState

_PLAIN = re.compile(r"[A-Za-z0-9-]+").fullmatch
_JOBS = "/v1/jobs/"
_RETRYABLE = frozenset({"attempts_exhausted"})
"""Reasons of failures whose message is kept on the dead list."""


def job_path(job_id: str) -> str:
    """The job itself."""
    return current_root() + _JOBS + _segment(job_id)


def _segment(job_id: str) -> str:
    """One part of a path; ids of ours need no encoding, those of Celery clients may."""
    return job_id if _PLAIN(job_id) else quote(job_id, safe="")


def open_links(path: str) -> dict[str, str]:
    """The links of a job at this path that is not settled."""
    return {
        "self": path,
        "result": f"{path}/result",
        "events": f"{path}/events",
        "cancel": f"{path}/cancel",
    }


def job_links(job_id: str, state: JobState, reason: str | None) -> dict[str, str]:
    """The links of a job in this state: cancel while it is open, retry once it is dead."""
    path = job_path(job_id)
    links = open_links(path)
    if state.terminal:
        del links["cancel"]
    if state is JobState.FAILED and reason in _RETRYABLE:
        links["retry"] = f"{path}/retry"
    return links

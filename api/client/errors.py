"""The errors of the client.

ClientError
├── ApiError          the API answered with a problem
├── JobFailed         a job of `map` was refused, failed, was canceled or expired
└── StillRunning      a job was not settled in the time given (a TimeoutError too)

Without a response, the last httpx.HTTPError is raised unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from api.client.types import Job

__all__ = ("ApiError", "ClientError", "JobFailed", "StillRunning", "error_of")


class ClientError(Exception):
    """Base of the client's own errors."""


class ApiError(ClientError):
    """The API answered with a problem; `problem` is the document."""

    def __init__(
        self, status: int, problem: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(problem.get("detail") or f"HTTP {status}")
        self.status = status
        self.problem = problem
        self.headers: Mapping[str, str] = headers or {}


class JobFailed(ClientError):
    """A job has no result; `job` has the reason, and `job["index"]` its input's index in `map`."""

    def __init__(self, job: Job) -> None:
        failure = job.get("error")
        why = f"{failure['reason']}: {failure['message']}" if failure else job["state"]
        super().__init__(f"input {job['index']}: {why}" if "index" in job else why)
        self.job = job


class StillRunning(ClientError, TimeoutError):
    """A job was not settled in the given time; `job` is its last state, and it continues."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"job {job['id']} is still {job['state']} after {seconds:g} s")
        self.job = job


def error_of(response: httpx.Response) -> ApiError:
    """The error of a response whose body was read."""
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": response.text[:200]}
    document = problem if isinstance(problem, dict) else {"detail": str(problem)}
    return ApiError(response.status_code, document, response.headers)

"""The errors of the client.

ClientError
├── ApiError          the API answered with a problem
├── JobFailed         a job of `map` was refused, failed, was canceled or expired
└── StillRunning      a job was not settled in the time given (a TimeoutError too)

Without a response, the last httpx.HTTPError is raised unchanged. All of them survive pickling, so
that they reach the parent of a `multiprocessing.Pool`, which waits for ever for one that does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from .types import TERMINAL, Job

__all__ = ("ApiError", "ClientError", "JobFailed", "StillRunning", "error_of")


class ClientError(Exception):
    """Base of the client's own errors; raised itself where a client cannot be used as it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments(), self.__dict__ or None

    def _arguments(self) -> tuple[Any, ...]:
        """What the constructor was called with: `args` has only the message."""
        return self.args


class ApiError(ClientError):
    """The API answered with a problem; `problem` is the document."""

    def __init__(
        self, status: int, problem: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(problem.get("detail") or f"HTTP {status}")
        self.status = status
        self.problem = problem
        self.headers: Mapping[str, str] = headers or {}

    def _arguments(self) -> tuple[Any, ...]:
        return self.status, self.problem, self.headers


class JobFailed(ClientError):
    """A job has no result; `job` has the reason, and `job["index"]` its input's index in `map`."""

    def __init__(self, job: Job) -> None:
        failure = job.get("error")
        why = f"{failure['reason']}: {failure['message']}" if failure else job["state"]
        super().__init__(f"input {job['index']}: {why}" if "index" in job else why)
        self.job = job

    def _arguments(self) -> tuple[Any, ...]:
        return (self.job,)


class StillRunning(ClientError, TimeoutError):
    """A job was not settled in the given time; `job` is its last state, and it continues."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"job {job['id']} is still {job['state']} after {seconds:g} s")
        self.job = job
        self.seconds = seconds

    def _arguments(self) -> tuple[Any, ...]:
        return self.job, self.seconds


def error_of(response: httpx.Response) -> ApiError:
    """The error of a response whose body was read."""
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": response.text[:200]}
    document = problem if isinstance(problem, dict) else {"detail": str(problem)}
    error = document.get("error")
    if "detail" not in document and isinstance(error, dict):  # OpenAI's shape
        document["detail"] = error.get("message")
    return ApiError(response.status_code, document, response.headers)


def answer_of(response: httpx.Response) -> Any:
    """The JSON of a successful response. Raises ClientError for what this API never sends."""
    try:
        return response.json()
    except ValueError as exc:
        where = response.request.url.copy_with(userinfo=b"", query=None)
        raise ClientError(f"{where} answered, but not as Lanefleet's API does") from exc


def result_of(job: Job, waited: float) -> Any:
    """The result of a job as it is after that many seconds; raises JobFailed or StillRunning."""
    if job["state"] == "succeeded":
        return job.get("result")
    raise JobFailed(job) if job["state"] in TERMINAL else StillRunning(job, waited)

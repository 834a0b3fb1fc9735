"""A small Python client of the HTTP API."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
_SLACK_SECONDS = 10.0


class ApiError(Exception):
    """The API answered with a problem; `problem` is the document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail") or f"HTTP {status}")
        self.status = status
        self.problem = problem


class Client:
    """Submits jobs and waits for them.

    Every method returns the job as the API shows it, a dict, and raises
    ApiError for a problem document and httpx.HTTPError when nobody answers.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:8000", timeout: float = 10.0) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(
        self, model: str, value: Any, *, wait: float | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Submit one JSON input; with `wait` seconds, come back with the result if in time."""
        body = {"model": model, "input": value, **fields}
        return self._call("POST", "/v1/jobs", wait, json=body)

    def submit_file(
        self, model: str, path: Path, *, wait: float | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Submit one file."""
        with path.open("rb") as stream:
            files = {"file": (path.name, stream)}
            form = {"model": model, **{name: str(value) for name, value in fields.items()}}
            return self._call("POST", "/v1/jobs", wait, data=form, files=files)

    def get(self, job_id: str, *, wait: float = 0.0) -> dict[str, Any]:
        """Look at a job, waiting up to `wait` seconds for it to be settled."""
        params = {"wait": wait} if wait else None
        return self._call(
            "GET", f"/v1/jobs/{job_id}", None, params=params, timeout=wait + _SLACK_SECONDS
        )

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job."""
        return self._call("POST", f"/v1/jobs/{job_id}/cancel", None)

    def models(self) -> list[dict[str, Any]]:
        """The models of this fleet."""
        listed: list[dict[str, Any]] = self._call("GET", "/v1/models", None)["models"]
        return listed

    def ask_of_model(self, name: str, action: Literal["load", "unload", "warm"]) -> int:
        """Load, unload or warm up a model in every worker; returns how many heard it."""
        answer = self._call("POST", f"/v1/models/{quote(name)}/{action}", None)
        return int(answer["workers"])

    def move_alias(self, alias: str, model: str) -> int:
        """Point an alias at another model; returns how many workers heard it."""
        path = f"/v1/models/{quote(alias)}/alias"
        return int(self._call("PUT", path, None, json={"model": model})["workers"])

    def purge_cache(self, name: str) -> int:
        """Drop every result that is kept of a model; returns how many."""
        return int(self._call("DELETE", f"/v1/models/{quote(name)}/cache", None)["results"])

    def lanes(self) -> dict[str, dict[str, int]]:
        """The state of every lane."""
        return self._call("GET", "/v1/lanes", None)

    def workers(self) -> list[dict[str, Any]]:
        """What each live worker says of itself."""
        reports: list[dict[str, Any]] = self._call("GET", "/v1/workers", None)  # type: ignore[assignment]  # the one list
        return reports

    def dead(self, lane: str, *, offset: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """The lane's dead letters, newest first."""
        params = {"offset": offset, "limit": limit}
        letters: list[dict[str, Any]] = self._call("GET", f"/v1/dead/{lane}", None, params=params)  # type: ignore[assignment]  # a list as well
        return letters

    def dead_letter(self, lane: str, job_id: str) -> dict[str, Any]:
        """One dead letter with its message."""
        return self._call("GET", f"/v1/dead/{lane}/{job_id}", None)

    def retry_dead(self, lane: str, ids: list[str] | None = None) -> int:
        """Put dead jobs back into their lane; returns how many."""
        return int(self._call("POST", f"/v1/dead/{lane}/retry", None, json={"ids": ids})["jobs"])

    def purge_dead(self, lane: str, ids: list[str] | None = None) -> int:
        """Drop dead letters for good; returns how many."""
        return int(self._call("POST", f"/v1/dead/{lane}/purge", None, json={"ids": ids})["jobs"])

    def _call(self, method: str, path: str, wait: float | None, **kwargs: Any) -> dict[str, Any]:
        if wait is not None:
            kwargs["headers"] = {"Prefer": f"wait={wait:g}"}
            kwargs["timeout"] = wait + _SLACK_SECONDS
        response = self._http.request(method, path, **kwargs)
        if response.is_error:
            raise ApiError(response.status_code, _problem(response))
        answer: dict[str, Any] = response.json()
        return answer


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = response.json()
    except ValueError:
        return {"detail": response.text[:200]}
    return problem if isinstance(problem, dict) else {"detail": str(problem)}

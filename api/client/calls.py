"""Every request of the API as a value, so that both clients send identical ones."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson

__all__ = ("Call", "base_url_of", "headers_of", "json_input")

DEFAULT_URL = "http://127.0.0.1:8000"
SLACK_SECONDS = 10.0
"""How much longer than the requested wait a response may take."""
HOLD_SECONDS = 30.0
"""How long one request waits for a job, where the caller waits longer."""
SILENCE_SECONDS = 60.0
"""After this time without even a heartbeat a stream of events is reopened."""
IDEMPOTENCY_KEY = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `options` are httpx's."""

    method: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    repeatable: bool = True
    """Whether sending it twice has the effect of sending it once."""
    wait: float | None = None
    """Seconds for which the API may delay the response."""


def base_url_of(given: str | None) -> str:
    """The API's address: as given, else LANEFLEET_URL, else this machine."""
    return given or os.environ.get("LANEFLEET_URL") or DEFAULT_URL


def headers_of(api_key: str | None) -> dict[str, str]:
    """The headers of every request; the key as given, else LANEFLEET_API_KEY."""
    key = api_key if api_key is not None else os.environ.get("LANEFLEET_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def json_input(value: Any) -> Any:
    """An input as JSON: bytes, and the bytes of a path, become an image in base64."""
    if isinstance(value, Path):
        value = value.read_bytes()
    if isinstance(value, bytes | bytearray):
        return {"image": b64encode(value).decode()}
    return value


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def submit(
    model: str, value: Any, wait: float | None, key: str | None, fields: Mapping[str, Any]
) -> Call:
    """Submit one input."""
    body = {"model": model, **fields}
    if "input_url" not in fields:
        body["input"] = json_input(value)
    headers = {"Content-Type": "application/json", **_submit_headers(wait, key)}
    options = {"content": orjson.dumps(body), "headers": headers}
    return Call("POST", "/v1/jobs", options, wait=wait)


def submit_file(
    model: str, path: Path, wait: float | None, key: str | None, fields: Mapping[str, Any]
) -> Call:
    """Submit one file, as a form."""
    form = {"model": model, **{name: _form_text(value) for name, value in fields.items()}}
    options = {
        "data": form,
        "files": {"file": (path.name, path.read_bytes())},
        "headers": _submit_headers(wait, key),
    }
    return Call("POST", "/v1/jobs", options, wait=wait)


def get(job_id: str, wait: float) -> Call:
    """Get a job."""
    options = {"params": {"wait": wait}} if wait else {}
    return Call("GET", f"/v1/jobs/{_part(job_id)}", options, wait=wait)


def cancel(job_id: str) -> Call:
    """Cancel a job."""
    return Call("POST", f"/v1/jobs/{_part(job_id)}/cancel")


def retry(job_id: str) -> Call:
    """Give a dead job a new life."""
    return Call("POST", f"/v1/jobs/{_part(job_id)}/retry", repeatable=False)


def events(job_id: str, last_id: str | None) -> Call:
    """Follow a job."""
    headers = {"Accept": "text/event-stream"}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    return Call("GET", f"/v1/jobs/{_part(job_id)}/events", {"headers": headers})


def bulk(lines: Sequence[bytes]) -> Call:
    """Submit many jobs, a line each. Not repeatable: a retry must omit accepted lines."""
    headers = {"Content-Type": "application/x-ndjson"}
    options = {"content": b"".join(lines), "headers": headers}
    return Call("POST", "/v1/jobs/bulk", options, repeatable=False, wait=60.0)


def results(ids: Sequence[str], wait: float) -> Call:
    """The outcomes of many jobs, as they are settled."""
    headers = {"Content-Type": "application/json", "Prefer": f"wait={wait:g}"}
    options = {"content": orjson.dumps({"ids": ids}), "headers": headers}
    return Call("POST", "/v1/jobs/results", options, wait=wait)


def models() -> Call:
    """The models."""
    return Call("GET", "/v1/models")


def ask_of_model(name: str, action: str) -> Call:
    """Load, unload or warm up a model."""
    return Call("POST", f"/v1/models/{_part(name)}/{action}")


def move_alias(alias: str, model: str) -> Call:
    """Point an alias at another model."""
    return Call("PUT", f"/v1/models/{_part(alias)}/alias", {"json": {"model": model}})


def purge_cache(name: str) -> Call:
    """Drop what is kept of a model; what is gone already does not count the second time."""
    return Call("DELETE", f"/v1/models/{_part(name)}/cache", repeatable=False)


def lanes() -> Call:
    """The state of every lane."""
    return Call("GET", "/v1/lanes")


def reset_breaker(lane: str) -> Call:
    """Close a lane's circuit breaker."""
    return Call("POST", f"/v1/lanes/{_part(lane)}/breaker/reset")


def drop_lane(lane: str) -> Call:
    """Cancel what an abandoned lane holds; what is gone already does not count the second time."""
    return Call("POST", f"/v1/lanes/{_part(lane)}/drop", repeatable=False)


def workers() -> Call:
    """The workers' reports."""
    return Call("GET", "/v1/workers")


def dead(lane: str, offset: int, limit: int) -> Call:
    """A lane's dead letters."""
    return Call("GET", f"/v1/dead/{_part(lane)}", {"params": {"offset": offset, "limit": limit}})


def dead_letter(lane: str, job_id: str) -> Call:
    """One dead letter."""
    return Call("GET", f"/v1/dead/{_part(lane)}/{_part(job_id)}")


def retry_dead(lane: str, ids: list[str] | None) -> Call:
    """Put dead jobs back."""
    return Call("POST", f"/v1/dead/{_part(lane)}/retry", {"json": {"ids": ids}}, repeatable=False)


def purge_dead(lane: str, ids: list[str] | None) -> Call:
    """Drop dead letters; what is gone already does not count the second time."""
    return Call("POST", f"/v1/dead/{_part(lane)}/purge", {"json": {"ids": ids}}, repeatable=False)


def _submit_headers(wait: float | None, key: str | None) -> dict[str, str]:
    headers = {IDEMPOTENCY_KEY: key or str(uuid4())}
    if wait is not None:
        headers["Prefer"] = f"wait={wait:g}"
    return headers


def _form_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

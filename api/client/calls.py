"""Every request of the API as a value, so that both clients send identical ones."""

from __future__ import annotations

import json
import math
import os
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from uuid import uuid4

import orjson

from .errors import ClientError

__all__ = ("Call", "base_url_of", "dump_json", "headers_of", "json_input")

_DEFAULT_HOST, _DEFAULT_PORT = "127.0.0.1", "8000"
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what an API may listen on
_KEY = re.compile(r"[\x21-\x7e]*")
SLACK_SECONDS = 10.0
"""How much longer than the requested wait a response may take."""
HOLD_SECONDS = 30.0
"""How long one request waits for a job, where the caller waits longer."""
SILENCE_SECONDS = 60.0
"""After this time without even a heartbeat a stream of events is reopened."""
_AT_A_TIME = 1000
"""Jobs that one call cancels or retries, so that progress is seen."""
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
    lasting: bool = False
    """Whether the response lasts as long as its reader likes."""


def base_url_of(given: str | None) -> str:
    """The API's address: as given, else LANEFLEET_URL, else where LANEFLEET_HOST and LANEFLEET_PORT
    have an API of this machine listen.
    """
    url = (given or os.environ.get("LANEFLEET_URL") or "").strip()
    if url:
        return url if "://" in url else f"http://{url}"
    host = (os.environ.get("LANEFLEET_HOST") or _DEFAULT_HOST).strip().strip("[]")
    host = _EVERY_ADDRESS.get(host, host)
    port = (os.environ.get("LANEFLEET_PORT") or _DEFAULT_PORT).strip()
    if not port.isdecimal():
        raise ClientError(f"LANEFLEET_PORT must be a number, not {port!r}; or set LANEFLEET_URL")
    if int(port) == 0:  # any free one: there is no telling which
        port = _DEFAULT_PORT
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def headers_of(api_key: str | None) -> dict[str, str]:
    """The headers of every request; the key as given, else LANEFLEET_API_KEY.

    Raises ClientError, which does not show the key, for one that no header can carry: httpx would
    print it.
    """
    key = (api_key if api_key is not None else os.environ.get("LANEFLEET_API_KEY") or "").strip()
    if not _KEY.fullmatch(key):
        raise ClientError(
            "the API key (`api_key`, or LANEFLEET_API_KEY) has a blank, a line break or another "
            "character that no key has; copy it again"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


def json_input(value: Any) -> Any:
    """An input as JSON: bytes, and the bytes of a path, become an image or audio in base64."""
    if isinstance(value, Path):
        value = value.read_bytes()
    if isinstance(value, bytes | bytearray):
        return {_kind_of(value): b64encode(value).decode()}
    return value


def _kind_of(content: bytes | bytearray) -> str:
    """What a file is, by how recordings begin; all else is sent as an image."""
    chunked = content[:4] in (b"RIFF", b"RF64", b"FORM") and content[8:12] != b"WEBP"
    audio = chunked or content[:4] in (b"fLaC", b"OggS") or content[:3] == b"ID3"
    return "audio" if audio or content[:2] in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2") else "image"


def _job(job_id: str) -> str:
    """The path of a job."""
    if not job_id:  # would be the path of the list
        raise ValueError("a job's id is not empty")
    return f"/v1/jobs/{_part(job_id)}"


def dump_json(value: Any) -> bytes:
    """The value as JSON. Raises TypeError for what JSON has no form of, ValueError for NaN and
    infinities, which orjson writes as null.
    """
    text = orjson.dumps(value)
    if b"null" in text:
        _refuse_nan(value)
    return text


def _refuse_nan(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    if isinstance(value, dict):
        for inner in value.values():
            _refuse_nan(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_nan(inner)


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
    headers = {"Content-Type": "application/json", **submit_headers(wait, key)}
    options = {"content": dump_json(body), "headers": headers}
    return Call("POST", "/v1/jobs", options, wait=wait)


def submit_file(
    model: str,
    file: str | os.PathLike[str] | BinaryIO,
    wait: float | None,
    key: str | None,
    fields: Mapping[str, Any],
) -> Call:
    """Submit one file, as a form: a path, or what is open for reading bytes."""
    form = {"model": model, **{name: _form_text(value) for name, value in fields.items()}}
    options = {
        "data": form,
        "files": {"file": _named_bytes(file)},
        "headers": submit_headers(wait, key),
    }
    return Call("POST", "/v1/jobs", options, wait=wait)


def _named_bytes(file: str | os.PathLike[str] | BinaryIO) -> tuple[str, bytes]:
    if isinstance(file, str | os.PathLike):
        path = Path(file)
        return path.name, path.read_bytes()
    name = getattr(file, "name", None)
    return Path(name).name if isinstance(name, str) else "input", file.read()


def get(job_id: str, wait: float) -> Call:
    """Get a job."""
    options = {"params": {"wait": wait}} if wait else {}
    return Call("GET", _job(job_id), options, wait=wait)


def list_jobs(filters: Mapping[str, Any]) -> Call:
    """One page of jobs."""
    params = {name: _moment(value) for name, value in filters.items() if value is not None}
    if labels := params.pop("labels", None):
        params["label"] = [f"{name}={value}" for name, value in labels.items()]
    return Call("GET", "/v1/jobs", {"params": params})


def cancel(job_id: str) -> Call:
    """Cancel a job."""
    return Call("POST", f"{_job(job_id)}/cancel")


def retry(job_id: str) -> Call:
    """Give a dead job a new life."""
    return Call("POST", f"{_job(job_id)}/retry", repeatable=False)


def act_on_jobs(action: str, filters: Mapping[str, Any], dry_run: bool, cursor: str | None) -> Call:
    """Cancel or retry the next jobs that the filter finds."""
    wanted = {name: _moment(value) for name, value in filters.items() if value is not None}
    body = {"filter": wanted, "dry_run": dry_run, "limit": _AT_A_TIME}
    if cursor is not None:
        body["cursor"] = cursor
    # What was canceled or retried already does not count the second time.
    return Call("POST", f"/v1/jobs/{action}", {"json": body}, repeatable=False, wait=60.0)


def events(job_id: str, last_id: str | None) -> Call:
    """Follow a job."""
    headers = {"Accept": "text/event-stream"}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    return Call("GET", f"{_job(job_id)}/events", {"headers": headers}, lasting=True)


def bulk(lines: Sequence[bytes]) -> Call:
    """Submit many jobs, a line each. Not repeatable: a retry must omit accepted lines."""
    headers = {"Content-Type": "application/x-ndjson"}
    options = {"content": b"".join(lines), "headers": headers}
    return Call("POST", "/v1/jobs/bulk", options, repeatable=False, wait=60.0)


def results(ids: Sequence[str], wait: float, *, minimal: bool = False) -> Call:
    """The outcomes of many jobs, as they are settled; `minimal` ones have no times and links."""
    prefer = f"wait={wait:g}, return=minimal" if minimal else f"wait={wait:g}"
    headers = {"Content-Type": "application/json", "Prefer": prefer}
    options = {"content": orjson.dumps({"ids": ids}), "headers": headers}
    return Call("POST", "/v1/jobs/results", options, wait=wait)


def models() -> Call:
    """The models."""
    return Call("GET", "/v1/models")


def get_model(name: str) -> Call:
    """One model."""
    return Call("GET", f"/v1/models/{_part(name)}")


def ask_of_model(name: str, action: str) -> Call:
    """Load, unload or warm up a model."""
    return Call("POST", f"/v1/models/{_part(name)}/{action}")


def move_alias(
    alias: str, model: str, share: float | None = None, sticky: bool | None = None
) -> Call:
    """Point an alias at another model, or give that a share of its jobs."""
    asked = {"share": share, "sticky": sticky}
    body = {"model": model, **{name: one for name, one in asked.items() if one is not None}}
    return Call("PUT", f"/v1/models/{_part(alias)}/alias", {"json": body})


def purge_cache(name: str) -> Call:
    """Drop what is kept of a model; what is gone already does not count the second time."""
    return Call("DELETE", f"/v1/models/{_part(name)}/cache", repeatable=False)


def lanes(names: Sequence[str] = ()) -> Call:
    """The state of these lanes, or of every one."""
    return Call("GET", "/v1/lanes", {"params": {"lane": list(names)}} if names else {})


def reset_breaker(lane: str) -> Call:
    """Close a lane's circuit breaker."""
    return Call("POST", f"/v1/lanes/{_part(lane)}/breaker/reset")


def drop_lane(lane: str) -> Call:
    """Cancel what an abandoned lane holds; what is gone already does not count the second time."""
    return Call("POST", f"/v1/lanes/{_part(lane)}/drop", repeatable=False)


def workers() -> Call:
    """The workers' reports."""
    return Call("GET", "/v1/workers")


def system() -> Call:
    """The fleet in one view."""
    return Call("GET", "/v1/system")


def outbox(limit: int) -> Call:
    """What could not be sent."""
    return Call("GET", "/v1/outbox", {"params": {"limit": limit}})


def settle_outbox(action: str, ids: list[str] | None) -> Call:
    """Retry or drop entries; what is gone already does not count the second time."""
    return Call("POST", f"/v1/outbox/{action}", {"json": {"ids": ids}}, repeatable=False)


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


def submit_headers(wait: float | None, key: str | None) -> dict[str, str]:
    """The headers of what is queued once, however often it is sent."""
    headers = {IDEMPOTENCY_KEY: key or str(uuid4())}
    if wait is not None:
        headers["Prefer"] = f"wait={wait:g}"
    return headers


def _form_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _moment(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value

"""Reads a job from a request's body: JSON, a form with a file, or the input's own bytes."""

from __future__ import annotations

from typing import Any, NamedTuple

from starlette.datastructures import UploadFile

from api.http.bodies import FORM, MANY_BYTES, Body, is_json, parse_aside, parse_small
from api.http.request_errors import InvalidRequest
from api.jobs.request import JobRequest, job_request

_RAW_FIELDS = ("model", "params", "priority", "deadline", "start_within", "cache", "labels")
_OBJECTS = ("params", "labels")
RAW_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "schema": {"type": "string"},
        "description": f"`{name}` of a job whose body is the input's own bytes"
        + (", as a JSON object." if name in _OBJECTS else "."),
    }
    for name in _RAW_FIELDS
]


class SentJob(NamedTuple):
    """A job as it was sent, not yet checked against the catalog."""

    request: JobRequest
    payload: bytes | None = None
    """The input, where it was sent as a file's bytes."""
    sent_bytes: int = 0
    """Size of its JSON."""


async def job_of(body: Body) -> SentJob:
    """Parse the body as a job; raises 400 problems, and InvalidRequest."""
    media_type = body.media_type
    if is_json(media_type):
        data = body.data
        document = parse_small(data) if len(data) <= MANY_BYTES else await body.json()
        return SentJob(job_request(document), None, len(data))
    return await (_from_form(body) if media_type == FORM else _from_bytes(body))


async def _from_form(body: Body) -> SentJob:
    form = await body.form(max_files=1, max_fields=10)
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise InvalidRequest("send the file in a part named `file`")
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    payload = await upload.read()
    return SentJob(await _with_objects(fields), payload)


async def _from_bytes(body: Body) -> SentJob:
    """Take the job's fields from the query and its input from the body."""
    return SentJob(await _with_objects(body.query()), body.data)


async def _with_objects(fields: dict[str, Any]) -> JobRequest:
    for name in _OBJECTS:
        if name in fields:
            fields[name] = await parse_aside(fields[name].encode())
    return job_request({**fields, "input": None}, strict=False)

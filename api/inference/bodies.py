"""Reads the bodies of the task-shaped routes: JSON, a form with files, or one file's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.datastructures import FormData, UploadFile

from api.http.bodies import FORM, Body, is_json, parse_aside
from api.http.request_errors import InvalidRequest
from api.inference.task_run import FetchedFrom

MAX_FILES = 256
MAX_FIELDS = 16


class TaskBody(NamedTuple):
    """The fields and inputs of a request."""

    fields: dict[str, Any]
    inputs: list[Any]
    """JSON values, FetchedFrom, or bytes of files."""
    sent_bytes: int = 0
    """Size of the JSON that contained them."""
    strict: bool = False
    """Whether numbers must not be sent as strings; all fields of forms and queries are strings."""


async def task_of(body: Body) -> TaskBody:
    """The body's fields and inputs. Raises 400 problems, and InvalidRequest."""
    media_type = body.media_type
    if is_json(media_type):
        return _from_json(await body.json(), len(body.data))
    if media_type == FORM:
        return await _from_form(await body.form(MAX_FILES, MAX_FIELDS), body.query())
    return TaskBody(await _fields(body.query()), [body.data])


def _from_json(document: Any, sent_bytes: int) -> TaskBody:
    found = document.keys() & {"input", "input_url"} if isinstance(document, dict) else set()
    if len(found) != 1:
        detail = 'send an object such as {"input": ...}, or with `input_url` in its place'
        raise InvalidRequest(detail)
    name = found.pop()
    value = document.pop(name)
    inputs = value if isinstance(value, list) else [value]
    if name == "input_url":
        inputs = [FetchedFrom(one) for one in inputs]
    return TaskBody(document, inputs, sent_bytes, strict=True)


async def _from_form(form: FormData, query: Mapping[str, str]) -> TaskBody:
    uploads = [one for one in form.getlist("file") if isinstance(one, UploadFile)]
    if not uploads:
        raise InvalidRequest("send each file in a part named `file`")
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    payloads = [await one.read() for one in uploads]
    return TaskBody(await _fields({**query, **texts}), payloads)


async def _fields(texts: Mapping[str, str]) -> dict[str, Any]:
    """Form fields or query parameters; `params` is a JSON object in either."""
    fields: dict[str, Any] = {name: text for name, text in texts.items() if text and name != "file"}
    if "params" in fields:
        fields["params"] = await parse_aside(fields["params"].encode())
    return fields

"""Read a request's body within its limit, and turn it into a JobRequest.

The limit is enforced on the bytes as they arrive: a chunked body has no
Content-Length to check.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from api.http.problems import Problem, validation_problem
from api.http.request_context import CURRENT
from api.http.strict_json import loads_strict
from api.jobs.views import JobRequest
from common.inputs.checks import IMAGE_TYPES, sniff_image


def media_type(request: Request) -> str:
    """The body's content type without its parameters, in lower case; empty when none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether a body of this type is JSON, by its name or its suffix (RFC 6839)."""
    return content_type == "application/json" or content_type.endswith("+json")


def type_not_taken(content_type: str) -> Problem:
    """The refusal of a body that is neither JSON, nor a form, nor a file."""
    return Problem(
        415,
        "unsupported_content_type",
        f"content type {content_type or '(none)'!r} is not taken; send application/json, "
        "multipart/form-data, or a file's bytes as image/*, text/plain or "
        "application/octet-stream",
    )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; raises a 413 problem as soon as it is too long."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large(max_bytes)
    message = await request.receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > max_bytes:
            raise too_large(max_bytes)
        return body
    pieces = bytearray()  # not a list: a byte at a time would take 42 bytes each
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        if len(pieces) + len(piece) > max_bytes:
            raise too_large(max_bytes)
        hold_bytes(len(piece))
        pieces += piece
        if not message.get("more_body", False):
            return bytes(pieces)
        message = await request.receive()


def hold_bytes(size: int) -> None:
    """Count bytes of a body that comes in pieces, until its request is answered.

    Raises a 503 problem when all such bodies together take as much as they may.
    """
    current = CURRENT.get()
    if current is None:
        return
    if not current.budget.take(size):
        detail = "too much is being uploaded at once; try again shortly"
        raise Problem(503, "uploads_exceed_memory", detail, headers={"Retry-After": "2"})
    current.held_bytes += size


def release_bytes(size: int) -> None:
    """Give back so many of what the current request holds, before it is answered."""
    current = CURRENT.get()
    if current is not None:
        size = min(size, current.held_bytes)
        current.budget.left += size
        current.held_bytes -= size


def too_large(max_bytes: int) -> Problem:
    """The 413 for a body over the limit."""
    return Problem(
        413, "body_too_large", f"the body is larger than {max_bytes} bytes; send less at once"
    )


def parse_json(body: bytes) -> Any:
    """The text as JSON; raises a 400 problem that says where it breaks."""
    try:
        return loads_strict(body)
    except ValueError as exc:
        raise Problem(
            400,
            "invalid_json",
            f"the body is not valid JSON ({exc}); NaN and Infinity are not JSON either",
        ) from exc


def job_request(document: Any, *, strict: bool = True) -> JobRequest:
    """The document as a job; raises a 422 problem that names the field.

    Strictly, a number is no string and a boolean no number; a form's fields are strings.
    """
    if not isinstance(document, dict):
        raise Problem(422, "invalid_request", 'send an object such as {"model": ..., "input": ...}')
    try:
        return JobRequest.model_validate(document, strict=strict)
    except ValidationError as exc:
        raise validation_problem(exc.errors(include_url=False, include_input=False)) from exc


async def read_form(request: Request, body: bytes, max_files: int, max_fields: int) -> FormData:
    """The body as a form whose fields are all proper text; raises a 400 problem."""

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    # Starlette raises an error of its own kind where it finds an application in the scope.
    scope = {name: value for name, value in request.scope.items() if name != "app"}
    try:
        form = await Request(scope, replay).form(max_files=max_files, max_fields=max_fields)
        for name, value in form.multi_items():  # some charsets give halves of characters
            (name if isinstance(value, UploadFile) else name + value).encode()
    except (MultiPartException, ValueError) as exc:  # the latter from the charset it names
        raise Problem(400, "invalid_multipart", str(exc)) from exc
    return form


async def multipart_job(request: Request, max_bytes: int) -> tuple[JobRequest, bytes]:
    """A multipart body's fields as a job, and its file's bytes."""
    body = await read_body(request, max_bytes)
    form = await read_form(request, body, max_files=1, max_fields=10)
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise Problem(422, "invalid_request", "send the file in a part named `file`")
    document: dict[str, Any] = {
        name: value for name, value in form.items() if isinstance(value, str)
    }
    if "params" in document:
        document["params"] = parse_json(document["params"].encode())
    payload = await upload.read()
    check_label(upload.content_type, payload)
    return job_request({**document, "input": None}, strict=False), payload


def check_label(label: str | None, payload: bytes) -> None:
    """Raise a 415 problem for an image that says it is of another kind than its bytes are.

    Whoever looked at the label alone, a proxy or a scanner, looked for the wrong thing.
    """
    said = (label or "").partition(";")[0].strip().lower()
    said = _OTHER_NAMES.get(said, said)
    found = sniff_image(payload)
    if found is not None and found != said and said in IMAGE_TYPES:
        detail = f"the file is labelled {said} and is {found}; label it as what it is"
        raise Problem(415, "mislabelled_image", detail)


_OTHER_NAMES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "image/x-bmp": "image/bmp",
}

RAW_TYPES = ("application/octet-stream", "text/plain")
RAW_BODIES: dict[str, Any] = {
    media_type: {"schema": {"type": "string", "format": "binary"}}
    for media_type in ("image/*", *RAW_TYPES)
}
"""For OpenAPI: a body that is the input's own bytes."""
_RAW_FIELDS = ("model", "params", "priority", "deadline", "start_within", "cache")
RAW_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "schema": {"type": "string"},
        "description": f"`{name}` of a job whose body is the input's own bytes"
        + (", as a JSON object." if name == "params" else "."),
    }
    for name in _RAW_FIELDS
]


def is_raw(content_type: str) -> bool:
    """Whether a body of this type is the input itself; what it really is, its bytes say."""
    return content_type.startswith("image/") or content_type in RAW_TYPES


async def raw_job(request: Request, max_bytes: int) -> tuple[JobRequest, bytes]:
    """The query parameters as a job, and the body as its input."""
    document: dict[str, Any] = {
        name: value for name, value in request.query_params.items() if value
    }
    if "params" in document:
        document["params"] = parse_json(document["params"].encode())
    job = job_request({**document, "input": None}, strict=False)
    payload = await read_body(request, max_bytes)
    check_label(request.headers.get("content-type"), payload)
    return job, payload

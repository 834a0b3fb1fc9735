"""Reads a request's body once, within its limit, with the headers that affect its handling.

The limit is enforced on the bytes as they arrive: a chunked body has no Content-Length to check.
The headers are read in one pass, because every submit passes here and most have none of those
that affect the response.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import FormData, QueryParams, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from api.http.problems import Problem
from api.http.request_context import CURRENT
from common.inputs.strict_json import loads_strict

T = TypeVar("T")

FORM = "multipart/form-data"
LARGE_BYTES = 256 * 1024
"""Work on more bytes than that is done in a thread."""
MANY_BYTES = 16 * 1024
_KEY_BYTES = 16
"""Where keys have to be looked at one by one, 1.5 us each (Zen 3)."""
_FORM_PIECE_BYTES = 64 * 1024
_MOST_FIELDS = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """The headers of a submit that affect its response, unchanged; None where absent."""

    prefer: str | None = None
    idempotency_key: str | None = None
    cache_control: str | None = None


_NOTHING = Asked()
_ASKED = (b"prefer", b"idempotency-key", b"cache-control")


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body, with the headers that affect its handling."""

    data: bytes
    content_type: str
    """As sent, with its parameters; empty where absent."""
    asked: Asked
    scope: Scope

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return media_type_of(self.content_type)

    def json(self) -> Awaitable[Any]:
        """The body as JSON; raises a 400 problem with the position of the error."""
        return parse_document(self.data)

    def query(self) -> dict[str, Any]:
        """The query's fields, without empty ones."""
        return {
            name: value for name, value in QueryParams(self.scope["query_string"]).items() if value
        }

    async def form(self, max_files: int, max_fields: int) -> FormData:
        """The body as a form whose fields are all valid text; raises a 400 problem."""

        left = memoryview(self.data)

        async def replay() -> dict[str, Any]:
            nonlocal left
            piece, left = left[:_FORM_PIECE_BYTES], left[_FORM_PIECE_BYTES:]
            await asyncio.sleep(0)
            return {"type": "http.request", "body": bytes(piece), "more_body": bool(left)}

        # Starlette raises an HTTPException of its own where the scope has an application.
        scope = {name: value for name, value in self.scope.items() if name != "app"}
        try:
            form = await Request(scope, replay).form(max_files=max_files, max_fields=max_fields)
            for name, value in form.multi_items():  # some charsets yield lone surrogates
                (name if isinstance(value, UploadFile) else name + value).encode()
        except (MultiPartException, ValueError) as exc:  # ValueError by an invalid charset
            raise Problem(400, "invalid_multipart", str(exc)) from exc
        return form

    async def digest(self) -> str:
        """SHA-256, in hex, of the request's content.

        A form's boundary is excluded: clients generate a new one for each attempt.
        """
        parameters = self.content_type.partition(";")[2]
        boundary = parameters.partition("boundary=")[2].partition(";")[0].strip().strip('"')
        found = hashlib.sha256(self.media_type.encode() + b"\n")
        found.update(self.scope.get("query_string", b"") + b"\n")

        def digest() -> str:
            found.update(self.data.replace(boundary.encode(), b"") if boundary else self.data)
            return found.hexdigest()

        return await aside(len(self.data), digest)


def is_json(media_type: str) -> bool:
    """Whether a body of this type is JSON, by its name or its suffix (RFC 6839)."""
    return media_type == "application/json" or media_type.endswith("+json")


def is_raw(media_type: str) -> bool:
    """Whether a body of this type is the input itself; its format is detected from its bytes."""
    return media_type.startswith("image/") or media_type in RAW_TYPES


@lru_cache(maxsize=64)
def is_taken(media_type: str) -> bool:
    """Whether a body of this type can be a job: JSON, a form, or a file's bytes."""
    return is_json(media_type) or media_type == FORM or is_raw(media_type)


def any_type(_media_type: str) -> bool:
    """Accept any type, for bodies that are always read as JSON."""
    return True


@lru_cache(maxsize=64)
def media_type_of(content_type: str) -> str:
    """A content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


_ANY_JOB = (
    "application/json, multipart/form-data, or a file's bytes as image/*, text/plain or "
    "application/octet-stream"
)


async def read(
    request: Request,
    max_bytes: int,
    takes: Callable[[str], bool] = is_taken,
    instead: str = _ANY_JOB,
) -> Body:
    """Read a request's whole body and its headers; see `receive`."""
    return await receive(request.scope, request.receive, max_bytes, takes, instead)


async def receive(
    scope: Scope,
    next_message: Receive,
    max_bytes: int,
    takes: Callable[[str], bool] = is_taken,
    instead: str = _ANY_JOB,
) -> Body:
    """The same without a request's object, which the fast path has no other use for.

    Raises a 415 problem for a type that is not accepted, before anything is read, and a 413
    problem as soon as the body is too long.
    """
    content_type, length, asked = _headers_of(scope)
    media_type = media_type_of(content_type)
    if not takes(media_type):
        detail = f"content type {media_type or '(none)'!r} is not taken; send {instead}"
        raise Problem(415, "unsupported_content_type", detail)
    if length.isdigit() and int(length) > max_bytes:
        raise too_large(max_bytes)
    message = await next_message()
    if message["type"] == "http.request" and not message.get("more_body", False):
        data: bytes = message.get("body", b"")
        if len(data) > max_bytes:
            raise too_large(max_bytes)
    else:
        data = await _gathered(message, next_message, max_bytes)
    return Body(data, content_type, asked, scope)


def _headers_of(scope: Scope) -> tuple[str, str, Asked]:
    """Content type, declared length, and the fields of Asked; of fields sent twice the first is
    used, or all in order where the field is a list.
    """
    content_type = length = None
    found: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1") if content_type is None else content_type
        elif name == b"content-length":
            length = value.decode("latin-1") if length is None else length
        elif name in _ASKED:
            found.setdefault(name, []).append(value.decode("latin-1"))
    return content_type or "", length or "", _asked(found) if found else _NOTHING


def _asked(found: dict[bytes, list[str]]) -> Asked:
    key = found.get(b"idempotency-key")
    return Asked(
        ", ".join(found.get(b"prefer", ())) or None,
        None if key is None else ", ".join(key),
        ", ".join(found.get(b"cache-control", ())) or None,
    )


async def _gathered(message: Message, next_message: Receive, max_bytes: int) -> bytes:
    """A body that comes in pieces, of which this message is the first."""
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
            return await whole(pieces)
        message = await next_message()


async def whole(pieces: bytearray) -> bytes:
    """A body that arrived in pieces; a copy of 32 MB takes 10 to 45 ms."""
    return await aside(len(pieces), lambda: bytes(pieces))


def hold_bytes(size: int) -> None:
    """Count bytes of a body that arrives in pieces, until its request is answered.

    Raises a 503 problem when all such bodies together exceed their limit.
    """
    current = CURRENT.get()
    if current is None:
        return
    if not current.budget.take(size):
        detail = "too much is being uploaded at once; try again shortly"
        raise Problem(503, "uploads_exceed_memory", detail, headers={"Retry-After": "2"})
    current.held_bytes += size


def release_bytes(size: int) -> None:
    """Release this many of the current request's bytes, before it is answered."""
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


async def aside(size_bytes: int, call: Callable[[], T]) -> T:
    """What the call returns. One on so many bytes runs in a thread, so that the event loop serves
    others meanwhile.
    """
    return call() if size_bytes <= LARGE_BYTES else await asyncio.to_thread(call)


async def parse_document(body: bytes) -> Any:
    """A whole body as JSON: as parse_json, without objects of more fields than any request has, as
    each would be an error of its own.
    """
    if len(body) <= MANY_BYTES:
        return parse_small(body)
    document = await parse_aside(body)
    check_fields(document)
    return document


def parse_small(body: bytes) -> Any:
    """The same at once, for a body of at most MANY_BYTES."""
    document = parse_json(body)
    if isinstance(document, dict) and len(document) > _MOST_FIELDS:
        check_fields(document)
    return document


async def parse_aside(body: bytes) -> Any:
    """As parse_json, in a thread where it takes long."""
    size = len(body)
    if MANY_BYTES < size <= LARGE_BYTES:  # a key may take as long as that many bytes
        size += _KEY_BYTES * body.count(b":")
    return await aside(size, lambda: parse_json(body))


def check_fields(document: Any) -> None:
    """Raise a 422 problem for an object with more fields than any request has."""
    if isinstance(document, dict) and len(document) > _MOST_FIELDS:
        detail = f"{len(document)} fields are sent, and no request has more than {_MOST_FIELDS}"
        raise Problem(422, "invalid_request", detail)


def parse_json(body: bytes) -> Any:
    """Parse the text as JSON; raises a 400 problem with the position of the error."""
    try:
        return loads_strict(body)
    except ValueError as exc:
        raise Problem(
            400,
            "invalid_json",
            f"the body is not valid JSON ({exc}); NaN and Infinity are not JSON either",
        ) from exc


RAW_TYPES = ("application/octet-stream", "text/plain")
RAW_BODIES: dict[str, Any] = {
    media_type: {"schema": {"type": "string", "format": "binary"}}
    for media_type in ("image/*", *RAW_TYPES)
}
"""For OpenAPI: a body that is the input's own bytes."""

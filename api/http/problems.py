"""Errors as RFC 9457 problem+json: a stable `type`, a sentence, no internals."""

from __future__ import annotations

import math
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException as FastApiHTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.http.allowed_methods import methods_of
from api.http.openai_shape import is_openais, openai_error
from api.http.paths import without_slash
from api.http.request_context import CURRENT, path_of
from api.http.request_errors import (
    Forbidden,
    InvalidIdempotencyKey,
    InvalidRequest,
    RequestError,
    TooManyWaiting,
    Unauthorized,
    WrongResult,
)
from common.errors import (
    DeadlineUnreachable,
    FleetError,
    InputStoreUnavailable,
    LaneFull,
    MessageTooLarge,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    Refused,
    UnknownModel,
    UnsupportedMedia,
    WebhooksFull,
)
from common.redis.trouble import TROUBLE, cause_of, refusal_of

log = structlog.get_logger(__name__)

TYPE_BASE = "https://lanefleet.dev/problems/"
MEDIA_TYPE = "application/problem+json"
_REALM = 'Bearer realm="lanefleet"'
_RETRY_AFTER_SECONDS = 5.0
_BACK_PRESSURE = (
    LaneFull,
    DeadlineUnreachable,
    QueueFull,
    RateLimited,
    QuotaExceeded,
    WebhooksFull,
)
"""Refusals because of too much work: 429. The others concern something broken or missing: 503."""
UNEXPECTED_STATUS = 500
_METHOD_NOT_ALLOWED = 405


_PROBLEM: dict[str, Any] = {
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "request_id": {"type": "string"},
                },
                "required": ["type", "title", "status", "detail"],
            }
        }
    }
}


def responses(**by_status: str) -> dict[int | str, dict[str, Any]]:
    """Problem documents by status, as `s404="No such model."`, for OpenAPI."""
    return {
        status.removeprefix("s"): {"description": text, **_PROBLEM}
        for status, text in by_status.items()
    }


UNAUTHENTICATED = responses(
    s401="No API key, or one that is not valid.", s403="The API key lacks the scope."
)
"""Responses of every route that requires a scope."""


class Problem(FastApiHTTPException):
    """An HTTP error with its problem document.

    FastAPI's kind, as any other that is raised while it reads a body becomes a 400.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.status = status
        self.code = code
        self.extra = extra

    def document(self) -> dict[str, Any]:
        """The problem document."""
        return {
            "type": TYPE_BASE + self.code.replace("_", "-"),
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }

    def for_openai(self) -> Problem:
        """The same with OpenAI's form of it as a member, for clients of either kind."""
        error = openai_error(self.status, self.code, self.detail, self.extra)
        extra = {**self.extra, "error": error}
        headers = dict(self.headers) if self.headers else None
        return Problem(self.status, self.code, self.detail, headers=headers, **extra)

    def response(self) -> JSONResponse:
        """The response with the document, which includes the request's id."""
        document = self.document()
        if request := CURRENT.get():
            document["request_id"] = request.request_id
        return JSONResponse(document, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def from_fleet_error(exc: FleetError) -> Problem:
    """The problem, with its status, of an error of this project."""
    if isinstance(exc, RequestError):
        return _from_request_error(exc)
    if isinstance(exc, UnknownModel):
        return Problem(404, exc.code, str(exc))
    if isinstance(exc, UnsupportedMedia):
        return Problem(415, exc.code, str(exc))
    if isinstance(exc, MessageTooLarge):
        return Problem(413, exc.code, str(exc))
    if isinstance(exc, Refused):
        status = 429 if isinstance(exc, _BACK_PRESSURE) else 503
        problem = _later(status, exc.code, str(exc), exc.retry_after_seconds)
        problem.headers = {**(problem.headers or {}), **exc.headers}
        if exc.cause:
            problem.extra["cause"] = exc.cause
        return problem
    if isinstance(exc, InputStoreUnavailable):
        return _later(503, exc.code, str(exc))
    return Problem(422, exc.code, str(exc))


def _from_request_error(exc: RequestError) -> Problem:
    headers = None
    if isinstance(exc, Unauthorized):
        status, challenge = 401, ', error="invalid_token"' if exc.sent else ""
        headers = {"WWW-Authenticate": _REALM + challenge}
    elif isinstance(exc, Forbidden):
        status = 403
        challenge = f'{_REALM}, error="insufficient_scope", scope="{exc.scope}"'
        headers = {"WWW-Authenticate": challenge}
    elif isinstance(exc, InvalidIdempotencyKey):
        status = 400
    elif isinstance(exc, TooManyWaiting):
        return _later(429, exc.code, str(exc), 1.0)
    else:
        status = 500 if isinstance(exc, WrongResult) else 422
    return Problem(status, exc.code, str(exc), headers=headers, **exc.extra)


def _later(status: int, code: str, detail: str, seconds: float | None = None) -> Problem:
    """A problem with the time to retry: in whole seconds, and exactly in the document."""
    seconds = _RETRY_AFTER_SECONDS if seconds is None else seconds
    headers = {"Retry-After": str(math.ceil(seconds))}
    return Problem(status, code, detail, headers=headers, retry_after=round(seconds, 3))


def response_for(exc: Exception) -> JSONResponse:
    """The response for this error; it has no details of an unexpected one."""
    return problem_for(exc).response()


def problem_for(exc: Exception, *, reading: bool = False) -> Problem:
    """The problem for an error of any kind; an unexpected one is logged. reading: of a request
    that changes nothing.
    """
    match exc:
        case Problem():
            return exc
        case FleetError():
            return from_fleet_error(exc)
        case RequestValidationError():
            return from_fleet_error(InvalidRequest.of(list(exc.errors())))
        case HTTPException():
            return _from_http(exc)
        case RedisError():
            return _from_redis(exc, reading)
        case ClientDisconnect():
            return Problem(400, "client_left", "the body ended early")
        case _:
            log.error("request_failed", exc_info=exc)
            detail = "something went wrong on our side"
            return Problem(UNEXPECTED_STATUS, "internal_error", detail)


def _from_http(exc: HTTPException) -> Problem:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
    code = codes.get(exc.status_code, "http_error")
    headers = dict(exc.headers) if exc.headers else None
    return Problem(exc.status_code, code, str(exc.detail), headers=headers)


def _from_redis(exc: RedisError, reading: bool) -> Problem:
    TROUBLE.note("answering a request", exc)
    unknown = cause_of(exc) in ("unreachable", "other")
    text = "whether the job was taken is unknown" if unknown else "nothing was queued"
    if reading:
        text = "what was asked for is unknown without it"
    return from_fleet_error(refusal_of(exc, text))


_SLASH = (
    "an id with a slash cannot be part of a path, encoded or not; "
    "ask for such a job with POST /v1/jobs/results"
)


def _has_slash(request: Request) -> bool:
    """Whether the path of a job has an encoded slash, which any server on the way decodes."""
    raw: bytes = request.scope.get("raw_path") or b""
    return path_of(request.scope).startswith("/v1/jobs/") and b"%2f" in raw.lower()


def install(app: FastAPI) -> None:
    """Convert every error that a route raises into a problem document."""

    async def handle(request: Request, exc: Exception) -> Response:
        routed = not isinstance(exc, HTTPException) or isinstance(exc, Problem)
        if not routed and (elsewhere := without_slash(app, request)):
            return elsewhere
        if isinstance(exc, HTTPException) and exc.status_code == 404 and _has_slash(request):
            exc = Problem(404, "not_found", _SLASH)
        problem = problem_for(exc, reading=request.method in ("GET", "HEAD"))
        if not routed or is_openais(path_of(request.scope)):
            problem = problem.for_openai()
        answer = problem.response()
        if answer.status_code == _METHOD_NOT_ALLOWED and (allowed := methods_of(app, request)):
            answer.headers["Allow"] = allowed
        return answer

    for kind in (
        Problem,
        FleetError,
        RequestValidationError,
        HTTPException,
        RedisError,
        ClientDisconnect,
        Exception,
    ):
        app.add_exception_handler(kind, handle)

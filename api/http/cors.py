"""CORS, for the origins that the operator allows to call the API.

Without credentials: keys are sent in a header that a page has to set itself, never in cookies,
so a page can do no more than its author's key allows.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

_ASKED = (
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "OpenAI-Beta",
    "OpenAI-Organization",
    "OpenAI-Project",
    "Prefer",
    "X-API-Key",
    "X-Request-ID",
    "traceparent",
    "tracestate",
)
_OPENAIS = "x-stainless-"
"""What the headers begin with by which OpenAI's client tells of itself: others come with each
version, and all are ignored."""
_SHOWN = (
    "Age",
    "Idempotent-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Process-Time",
    "X-Request-ID",
    "X-Should-Retry",
)
_PREFLIGHT_SECONDS = 600


class _Allowing(CORSMiddleware):
    """Starlette's, which knows headers by their whole names only."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to what a browser asks before it sends a request."""
        asked = request_headers.get("access-control-request-headers", "")
        names = [name for name in map(str.strip, asked.split(",")) if name]
        openais = [name for name in names if name.lower().startswith(_OPENAIS)]
        if not openais:
            return super().preflight_response(request_headers)
        known = dict(request_headers)
        del known["access-control-request-headers"]
        if others := ", ".join(name for name in names if name not in openais):
            known["access-control-request-headers"] = others
        response = super().preflight_response(Headers(known))
        allowed = response.headers.get("access-control-allow-headers")
        response.headers["access-control-allow-headers"] = ", ".join(
            filter(None, (allowed, *openais))
        )
        return response


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, callable by pages of these origins."""
    return _Allowing(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "PUT", "DELETE"),
        allow_headers=_ASKED,
        expose_headers=_SHOWN,
        max_age=_PREFLIGHT_SECONDS,
    )

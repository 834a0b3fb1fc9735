"""A span for each HTTP request, around everything else of the application.

The request goes on with the span's context as its traceparent, so that its jobs are sent below it.
OpenTelemetry's own instrumentation of FastAPI would miss the fast path, and cost more.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.paths import under_root
from common.trace import read_traceparent
from common.tracing.spans import Tracing, set_error, set_failed, traceparent_of

API_SERVICE = "lanefleet-api"
"""What its spans name as their service, unless OTEL_SERVICE_NAME does."""
_HEADER = b"traceparent"
_NOT_TRACED = frozenset(("/health", "/ready", "/metrics"))
"""Asked for by machines, many times a minute."""


class ServerSpans:
    """The application with a span for each request that the sampler wants."""

    def __init__(self, app: ASGIApp, tracing: Tracing, root: str) -> None:
        self._app = app
        self._tracing = tracing
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _NOT_TRACED:
            await self._app(scope, receive, send)
            return
        sent = [value for name, value in scope["headers"] if name == _HEADER]
        parent = read_traceparent(sent[0]) if len(sent) == 1 else ""
        about = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        span = self._tracing.start(scope["method"], "SERVER", parent, about)
        if span is None:
            await self._app(scope, receive, send)
            return
        others = [one for one in scope["headers"] if one[0] != _HEADER]
        own = (_HEADER, traceparent_of(span).encode())
        scope = {**scope, "headers": [*others, own]}
        if self._root:
            scope = under_root(scope, self._root)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except BaseException as exc:
            set_failed(span, exc)
            raise
        finally:
            if route := getattr(scope.get("route"), "path", None):
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
            if status:
                span.set_attribute("http.response.status_code", status)
            if status >= 500:
                set_error(span, str(status))
            span.end()

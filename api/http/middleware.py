"""Handles what all requests have in common, on the fast path and in FastAPI.

The fast path bypasses FastAPI's middlewares, so common functions are here, in one layer around
both: the request's id and trace, the Host check, the bound on active requests, the processing
time. It is one layer on purpose: each would cost every request another coroutine per message.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.allowed_hosts import AllowedHosts
from api.http.head_requests import answer_head
from api.http.openai_shape import is_openais
from api.http.paths import under_root
from api.http.problems import Problem
from api.http.request_context import (
    CURRENT,
    IN_SCOPE,
    BodyBudget,
    RequestContext,
    path_of,
    request_id_of,
)
from api.http.request_counts import RequestCounts
from api.http.shares import Shares
from common.settings import Settings
from common.trace import read_traceparent

log = structlog.get_logger(__name__)


class ShortWay(Protocol):
    """Answers some requests without the application."""

    def takes(self, scope: Scope) -> bool:
        """Whether this request is one of them."""

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """The complete response; raises nothing."""


_READ = frozenset((b"host", b"x-request-id", b"traceparent", b"content-encoding"))
NO_ROUTE = "(none)"
"""The route of a request that none takes."""
_LEFT = 499
"""The status of a request whose client left before it was answered."""
_ALWAYS_ANSWERED = frozenset(("/health", "/ready", "/metrics"))


class RequestLayer:
    """The application, with the common layer around it.

    With a fast path, its requests are passed to it directly, and their responses need no wrapper.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        fast_path: ShortWay | None = None,
        counts: RequestCounts | None = None,
    ) -> None:
        self._app = app
        self._fast_path = fast_path
        self._hosts = AllowedHosts(settings.allowed_hosts, settings.host)
        self._budget = BodyBudget(settings.max_body_memory_bytes)
        self._waits = Shares(settings.max_concurrent_requests, settings.tenant_share)
        self._most = settings.max_concurrent_requests
        self._slow_seconds = settings.slow_request_seconds or float("inf")
        self._root = settings.root_path
        self._counts = counts or RequestCounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        seen: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _READ:
                seen[name] = value if name not in seen else b""  # sent twice counts as absent
        request = RequestContext(
            request_id_of(seen.get(b"x-request-id")),
            read_traceparent(seen[b"traceparent"]) if b"traceparent" in seen else "",
            self._budget,
            self._waits,
        )
        CURRENT.set(request)
        scope[IN_SCOPE] = request
        if self._root:
            scope = under_root(scope, self._root)
            request.root_path = self._root
        self._counts.active += 1
        status = 0
        try:
            refusal = self._refusal(scope, seen)
            if refusal is not None:
                shared = is_openais(path_of(scope))
                response: Response = (refusal.for_openai() if shared else refusal).response()
            elif self._fast_path is not None and self._fast_path.takes(scope):
                response = await self._fast_path.answer(scope, receive)
            else:
                status = await self._pass_on(scope, receive, send, request, began)
                return
            status = response.status_code
            _add_fields(response.raw_headers, request, began)
            await response(scope, receive, send)
        except asyncio.CancelledError:
            if not request.has_left:
                raise
        finally:
            self._ended(scope, request, status, perf_counter() - began - request.waited_seconds)

    def _ended(self, scope: Scope, request: RequestContext, status: int, seconds: float) -> None:
        self._counts.active -= 1
        self._budget.left += request.held_bytes
        request.held_bytes = 0
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        status = status or (_LEFT if request.has_left else 500)
        self._counts.ended((scope["method"], route, status, request.lane), seconds)
        if seconds > self._slow_seconds:
            _log_slow(route, status, seconds, request, scope)

    async def _pass_on(
        self, scope: Scope, receive: Receive, send: Send, request: RequestContext, began: float
    ) -> int:
        status = 0

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                nonlocal status
                status = message["status"]
                message["headers"] = headers = [*message["headers"]]
                _add_fields(headers, request, began)
            await send(message)

        if scope["method"] == "HEAD":
            await answer_head(self._app, scope, receive, answer)
        else:
            await self._app(scope, receive, answer)
        return status

    def _refusal(self, scope: Scope, seen: dict[bytes, bytes]) -> Problem | None:
        """The problem to respond with, where the request is refused here."""
        if seen.get(b"host") in self._hosts.good and len(seen) == 1:
            return self._too_much(scope) if self._counts.active > self._most else None
        host = seen.get(b"host", b"" if scope["http_version"] == "1.1" else None)
        if host == b"":
            return Problem(400, "bad_request", "send one Host header, and each other once")
        if host is not None and host not in self._hosts:
            return Problem(
                421,
                "misdirected_request",
                "this API does not answer to that Host; LANEFLEET_ALLOWED_HOSTS says to which",
            )
        if seen.get(b"content-encoding", b"identity").lower() != b"identity":
            return Problem(
                415,
                "unsupported_content_encoding",
                "bodies are taken as they are; send it without Content-Encoding",
                headers={"Accept-Encoding": "identity"},
            )
        return self._too_much(scope) if self._counts.active > self._most else None

    def _too_much(self, scope: Scope) -> Problem | None:
        if path_of(scope) in _ALWAYS_ANSWERED:
            return None
        return Problem(
            503,
            "too_many_requests_under_way",
            f"this process answers {self._most} requests already; try again shortly",
            headers={"Retry-After": "1"},
        )


def _add_fields(headers: list[tuple[bytes, bytes]], request: RequestContext, began: float) -> None:
    headers.append((b"x-request-id", request.header_id))
    headers.append((b"x-process-time", b"%.6f" % (perf_counter() - began)))
    if request.traceparent:
        headers.append((b"traceparent", request.traceparent.encode()))


def _log_slow(
    route: str, status: int, seconds: float, request: RequestContext, scope: Scope
) -> None:
    """Log a slow request by its route's template, never its content."""
    log.warning(
        "slow_request",
        method=scope["method"],
        route=route,
        status=status,
        ms=round(seconds * 1000, 1),
        waited_ms=round(request.waited_seconds * 1000, 1),
        body_bytes=Headers(scope=scope).get("content-length"),
    )

"""One HTTP connection, with the limits that uvicorn's own lacks.

uvicorn waits forever for a head or a body that arrives slowly, accepts heads of any size and
sends 400 and 503 as plain text. Here each has a limit. A timer per request would cost the fast
path 2 us; so nothing is timed while bytes arrive, and the server calls `sweep` on every
connection once a second.

A response may be sent before its request has arrived completely, such as a 413. Closing then
would reset the connection, and the client might never read the response; so only the sending
side is closed, and incoming bytes are read and dropped for a moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from api.http.problems import Problem
from api.http.request_context import IN_SCOPE, RequestContext
from api.server.unchunked import send_unchunked
from common.settings import HttpSettings

log = structlog.get_logger(__name__)

_LINGER_SECONDS = 2.0
_FIRST_REQUEST_SECONDS = 0.5
"""How long a new connection may take to send its request while the process drains."""
_LINGER_BYTES = 16 * 1024 * 1024
_BARREN_BYTES = 65_536
"""Most consecutive bytes of a chunked body without content: trailers, extensions."""
_FRAMING_FACTOR = 3
"""Above 64 KB, most bytes of chunk framing per byte of content; one-byte chunks have 5."""
_IDLE_CLOSED_AT_ONCE = 64
_SILENT_CLOSED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Patience:
    """The limits of a connection in bytes and time."""

    connections: int
    head_seconds: float
    head_bytes: int
    head_fields: int
    body_seconds: float
    body_bytes_per_second: int
    send_seconds: float

    @classmethod
    def of(cls, settings: HttpSettings, max_connections: int) -> Patience:
        """The limits in these settings."""
        return cls(
            max_connections,
            settings.header_timeout_seconds,
            settings.max_header_bytes,
            settings.max_header_count,
            settings.body_timeout_seconds,
            settings.body_bytes_per_second,
            settings.send_timeout_seconds,
        )


# Called directly: `super()` would cost each more than these overrides do.
_data_received = HttpToolsProtocol.data_received
_on_headers_complete = HttpToolsProtocol.on_headers_complete
_on_body = HttpToolsProtocol.on_body
_on_message_complete = HttpToolsProtocol.on_message_complete


class Refused(Exception):
    """Raised inside the parser to stop it; the response is in `refusal`."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits; `Connection.within(patience)` creates the class."""

    patience: ClassVar[Patience]

    @classmethod
    def within(cls, patience: Patience) -> type[Connection]:
        """The protocol class with these limits."""
        return type("PatientConnection", (cls,), {"patience": patience})

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_since: float | None = self.loop.time()
        """When the wait for a head began; None while a request is active."""
        self._fed = 0
        """Bytes received of an incomplete head, or after it of an incomplete body."""
        self._arrived = 0
        """Bytes of the data that is being parsed."""
        self._content = 0
        """Bytes of the body's content."""
        self._barren = 0
        """Bytes since the last byte of content."""
        self._incomplete = False
        """Whether a body is still to come, or a part of it: also after the answer."""
        self._refusal: Problem | None = None
        self._draining = False
        self._linger_until: float | None = None
        self._lingered = 0
        self._body_window: tuple[float, int] | None = None
        self._write_window: tuple[float, int] | None = None

    @property
    def idle(self) -> bool:
        """Whether it is open between two requests."""
        return self.timeout_keep_alive_task is not None and not self.transport.is_closing()

    @property
    def silent(self) -> bool:
        """Whether no request has come on it yet."""
        return self.cycle is None and not self.transport.is_closing()

    # Called by uvicorn's protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; at the limit close others for it: silent ones, the oldest first,
        where they are more than the idle ones, or else these. Refuse it where there are none.
        """
        super().connection_made(transport)
        if len(self.connections) <= self.patience.connections:
            return
        ours = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        silent = sorted((one for one in ours if one.silent), key=lambda one: one._head_since or 0.0)
        idle = [one for one in ours if one.idle]
        many = len(silent) > len(idle)
        for one in silent[:_SILENT_CLOSED_AT_ONCE] if many else idle[:_IDLE_CLOSED_AT_ONCE]:
            one.transport.close()
        if not silent and not idle:
            detail = "this process holds as many connections as it may; try again shortly"
            self._refuse(Problem(503, "too_many_connections", detail))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request whose client waits for it no more."""
        cycle = self.cycle
        super().connection_lost(exc)
        if cycle is not None and not cycle.response_complete:
            request = cycle.scope.get(IN_SCOPE)
            if isinstance(request, RequestContext):
                request.client_left()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and count the bytes of a request that is not complete yet."""
        if self._linger_until is not None:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self.transport.abort()
            return
        self._arrived = len(data)
        content = self._content
        _data_received(self, data)
        cycle = self.cycle
        if (
            cycle is None
            or cycle.scope is not self.scope
            or (cycle.response_complete and not self._incomplete)
        ):
            self._head_grows()
        elif cycle.more_body and not cycle.response_complete:
            self._body_grows(content)

    def _head_grows(self) -> None:
        """Count an incomplete head; or empty lines, after which uvicorn drops its timeout."""
        if self._head_since is None:
            self._head_since = self.loop.time()
        self._fed += self._arrived
        if self._fed > self.patience.head_bytes:
            self._refuse(self._head_too_large())

    def _body_grows(self, content: int) -> None:
        """Count an incomplete body; `content` is its size before this data."""
        self._fed += self._arrived
        if self._content == content:
            self._barren += self._arrived
        else:
            self._barren = 0
        framing = self._fed - self._content
        if self._barren > _BARREN_BYTES or (
            framing > _BARREN_BYTES + _FRAMING_FACTOR * self._content
        ):
            detail = "the body is nearly all chunk framing; send larger chunks"
            self._refuse(Problem(400, "bad_request", detail))

    def on_headers_complete(self) -> None:
        """Check the complete head, and start counting the body."""
        limits = self.patience
        if self._fed + self._arrived > limits.head_bytes or len(self.headers) > limits.head_fields:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > limits.head_bytes or len(self.headers) > limits.head_fields:
                self._refusal = self._head_too_large()
                raise Refused
        self._head_since = None
        self._incomplete = True
        self._fed = self._content = self._barren = 0
        _on_headers_complete(self)
        if self._draining:
            self.cycle.keep_alive = False
        if self.scope["http_version"] == "1.0":
            send_unchunked(self.cycle)

    def on_message_complete(self) -> None:
        """Note that the body has come, be it answered already."""
        self._incomplete = False
        _on_message_complete(self)

    def on_body(self, body: bytes) -> None:
        """Count content of the body."""
        self._content += len(body)
        _on_body(self, body)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse the request; uvicorn calls this when the parser has stopped."""
        if self._refusal is None:
            self._refusal = Problem(400, "bad_request", "this is not a valid HTTP/1.1 request")
        self._refuse(self._refusal)

    def shutdown(self) -> None:
        """End the connection when idle while the process drains, but wait for a first request that
        may be in transit.
        """
        if self.cycle is None and not self.transport.is_closing():
            self._draining = True
            self.loop.call_later(_FIRST_REQUEST_SECONDS, self._end_if_fresh)
        else:
            super().shutdown()

    def _end_if_fresh(self) -> None:
        if self.cycle is None:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: a client that requests an upgrade is served HTTP/1.1."""

    # Called by the server

    def sweep(self, now: float) -> None:
        """End what took too long; called once a second."""
        if self._linger_until is not None:
            if now >= self._linger_until:
                self.transport.abort()
        elif self._head_since is not None and now - self._head_since > self.patience.head_seconds:
            self._end_of_patience_with_head()
        elif self.cycle is not None and self.cycle.response_complete and self._incomplete:
            self._linger()
        else:
            self._sweep_body(now)
            self._sweep_writes(now)

    def _end_of_patience_with_head(self) -> None:
        if not self._fed:
            self.transport.abort()
        else:
            seconds = self.patience.head_seconds
            detail = f"the request's head took longer than {seconds:g} s"
            self._refuse(Problem(408, "request_timeout", detail))

    def _sweep_body(self, now: float) -> None:
        cycle = self.cycle
        awaited = (
            cycle is not None
            and cycle.more_body
            and not cycle.response_complete
            and not cycle.waiting_for_100_continue
            and not self.flow.read_paused
        )
        if not awaited:
            self._body_window = None
            return
        began, fed = self._body_window or (now, self._fed)
        self._body_window = (began, fed)
        seconds, rate = self.patience.body_seconds, self.patience.body_bytes_per_second
        if now - began < seconds:
            return
        self._body_window = (now, self._fed)
        if self._fed - fed < (1 if cycle.response_started else max(1, rate * seconds)):
            detail = f"the body must bring {rate} bytes a second; in {seconds:g} s it did not"
            self._refuse(Problem(408, "request_timeout", detail))

    def _sweep_writes(self, now: float) -> None:
        left = self.transport.get_write_buffer_size()
        if not left or self._write_window is None or left < self._write_window[1]:
            self._write_window = (now, left) if left else None
        elif now - self._write_window[0] >= self.patience.send_seconds:
            log.info("client_stopped_reading", bytes_left=left)
            self.transport.abort()

    # Ending a connection

    def _head_too_large(self) -> Problem:
        limits = self.patience
        detail = (
            f"the request's head is larger than {limits.head_bytes} bytes "
            f"or has more than {limits.head_fields} fields"
        )
        return Problem(431, "head_too_large", detail)

    def _refuse(self, problem: Problem) -> None:
        """Respond with this problem, unless a response was started, and end the connection."""
        cycle = self.cycle
        if self.transport.is_closing() or self._linger_until is not None:
            return
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:  # the error is in data after a complete request
                cycle.keep_alive = False
                self._linger_until = float("inf")
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        self._unset_keepalive_if_required()
        self.transport.write(self._as_bytes(problem))
        self._linger()

    def _as_bytes(self, problem: Problem) -> bytes:
        response = problem.response()
        fields = [*self.server_state.default_headers, *response.raw_headers]
        lines = [b"%b: %b\r\n" % (name, value) for name, value in fields]
        close = b"connection: close\r\n\r\n"
        return b"".join((STATUS_LINE[problem.status], *lines, close, response.body))

    def _linger(self) -> None:
        self._unset_keepalive_if_required()
        self._linger_until = self.loop.time() + _LINGER_SECONDS
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

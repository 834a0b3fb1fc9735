"""The context of the current request, accessible from anywhere.

A context variable, since its users are far apart: log lines, problem documents, the job's
message. Setting it costs 0.1 us; the request's id consists of a random part per process and a
counter, as `uuid4` would cost 3 us a request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from os import urandom
from time import perf_counter
from typing import Any

from api.http.request_errors import TooManyWaiting
from api.http.shares import Shares
from common.trace import trace_id

IN_SCOPE = "lanefleet.request"
"""Where a connection finds the context of the request that it has."""
_SANE_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
_PROCESS = urandom(8).hex().encode()
_NUMBERS = count(1)


class BodyBudget:
    """The total memory limit of bodies that arrive in pieces, in this process."""

    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes

    def take(self, size: int) -> bool:
        """Reserve these bytes if there is room; returns whether there was."""
        if size > self.left:
            return False
        self.left -= size
        return True


class RequestContext:
    """One request. Without slots, so that fields that most never set cost nothing."""

    held_bytes: int = 0
    """Bytes reserved from the budget until the request is answered."""
    waited_seconds: float = 0.0
    """Time spent waiting at the client's request."""
    root_path: str = ""
    """Where a proxy publishes the API: what links begin with."""
    waiting: asyncio.Task[Any] | None = None
    """The task that answers it, while it waits; it ends when the client leaves."""
    lane: str = ""
    """The lane that its job is for; of several, the last."""
    has_left: bool = False
    """Whether the client left while the request waited."""

    def __init__(
        self, header_id: bytes, traceparent: str, budget: BodyBudget, waits: Shares
    ) -> None:
        self.header_id = header_id
        self.waits = waits
        self.traceparent = traceparent
        """Valid, or empty."""
        self.budget = budget

    def client_left(self) -> None:
        """End a request that waits: nobody reads its answer."""
        if self.waiting is not None:
            self.has_left = True
            self.waiting.cancel()

    @property
    def request_id(self) -> str:
        """Its id as text; few requests need it."""
        return self.header_id.decode()


CURRENT: ContextVar[RequestContext | None] = ContextVar("lanefleet_request", default=None)


def path_of(scope: MutableMapping[str, Any]) -> str:
    """The path as the routes know it, without the root under which a proxy publishes them."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def request_id_of(header: bytes | None) -> bytes:
    """The client's id for the request where it is valid, else a new one."""
    if header and _SANE_ID.fullmatch(header):
        return header
    return b"%b-%d" % (_PROCESS, next(_NUMBERS))


def current_root() -> str:
    """What the paths in answers to the current request begin with; empty without a proxy's root."""
    request = CURRENT.get()
    return request.root_path if request else ""


def current_traceparent() -> str:
    """The trace context of the current request; empty when it has none."""
    request = CURRENT.get()
    return request.traceparent if request else ""


def note_lane(lane: str) -> None:
    """Note for which lane the current request has a job, for the metrics."""
    request = CURRENT.get()
    if request:
        request.lane = lane


def note_waited(seconds: float) -> None:
    """Exclude these seconds from the request's time in the log of slow requests."""
    request = CURRENT.get()
    if request:
        request.waited_seconds += seconds


@contextmanager
def waiting_by_choice(tenant: str = "", *, streams: bool = False) -> Iterator[None]:
    """Exclude the time inside from the request's time in the log of slow requests, and end the
    request when its client leaves; not one that streams, which notices by itself.

    Raises TooManyWaiting where the tenant has its share of requests that wait.
    """
    request = CURRENT.get()
    if request is None:
        yield
        return
    if not request.waits.take(tenant):
        raise TooManyWaiting(request.waits.each)
    began = perf_counter()
    request.waiting = None if streams else asyncio.current_task()
    try:
        yield
    finally:
        request.waiting = None
        request.waits.give(tenant)
        request.waited_seconds += perf_counter() - began


def add_request(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
    """A structlog processor: name the request in every line logged while it is answered."""
    request = CURRENT.get()
    if request:
        event.setdefault("request_id", request.request_id)
        if request.traceparent:
            event.setdefault("trace_id", trace_id(request.traceparent))
    return event

"""Responses of server-sent events: their room, their bytes, and what a reader that leaves ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.http.head_requests import HEAD_ONLY
from api.http.problems import Problem
from api.http.request_errors import TooManyWaiting
from api.inference.following import News, Step
from api.jobs.events import HEARTBEAT
from api.jobs.progress import Progress
from api.services import Services
from api.tenants.auth import Principal

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_POLL_AGAIN_SECONDS = "1"


def _nothing() -> None:
    """A reader that leaves ends nothing."""


class EventStream(StreamingResponse):
    """Server-sent events; the generator is closed, and its watch ended, with the response."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: dict[str, str] | None = None,
        on_left: Callable[[], None] = _nothing,
        status_code: int = 200,
    ) -> None:
        """on_left is called when the reader leaves before the stream's end."""
        super().__init__(events, status_code, {**_HEADERS, **(headers or {})})
        self._events = events
        self._on_left = on_left
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(HEAD_ONLY):
            self._on_left = _nothing
        await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        self._ended = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def listen_for_disconnect(self, receive: Receive) -> None:
        await super().listen_for_disconnect(receive)
        if not self._ended:
            self._on_left()


def check_room(services: Services, principal: Principal) -> None:
    """Raise TooManyWaiting, or a 503 problem, where there is no room for another stream."""
    shares = services.streams
    if not shares.take(principal.tenant):
        raise TooManyWaiting(shares.each)
    shares.give(principal.tenant)  # it is taken when the stream begins
    if services.watches.watching >= services.settings.max_event_streams:
        raise Problem(
            503,
            "too_many_streams",
            "this server holds as many event streams as it may; try again, or poll with ?wait=",
            headers={"Retry-After": _POLL_AGAIN_SECONDS},
        )


async def encoded(
    events: AsyncGenerator[list[News], None], last_id: str | None
) -> AsyncGenerator[bytes, None]:
    """The news after this id as server-sent events; heartbeats where there are none."""
    step_id = Progress.read(last_id)[0] or ""
    yield b"retry: 1000\n\n"
    async with aclosing(events):
        async for news in events:
            told = bytearray()
            for one in news:
                if isinstance(one, Step):
                    step_id = one.event.id
                    told += one.event.encode(one.position, one.progress)
                else:
                    told += one.encode(step_id)
            yield bytes(told) or HEARTBEAT

"""Routes whose bodies FastAPI reads: within the limit, and as strictly as the other routes.

Starlette reads a body of any size into memory, and the standard library's parser
accepts NaN and duplicate keys. A router sets `route_class=StrictRoute`; a test checks every
route with a body for it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.http.bodies import hold_bytes, parse_document, too_large, whole


class StrictRequest(Request):
    """A request that limits the size of its body."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body's pieces; raises a 413 problem as soon as it is too large."""
        limit = self.app.state.services.settings.max_body_bytes
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            hold_bytes(len(chunk))
            yield chunk

    async def body(self) -> bytes:
        """The whole body, in one piece; as `stream`."""
        if not hasattr(self, "_body"):
            pieces = bytearray()
            async for chunk in self.stream():
                pieces += chunk
            self._body = await whole(pieces)
        return self._body

    async def json(self) -> Any:
        """The body as strict JSON; raises a 400 problem."""
        if not hasattr(self, "_json"):
            self._json = await parse_document(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that passes a StrictRequest to FastAPI."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with a StrictRequest."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict

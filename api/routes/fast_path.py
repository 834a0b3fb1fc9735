"""The hot route: `POST /v1/jobs` past the layers of FastAPI that it does not use.

Routing, dependency solving and five middlewares cost a request more than all
that is done for its job. So this one is taken out in front of them and handed
to the very function that the FastAPI route calls; its errors become the same
documents. The route stays registered, as the OpenAPI document says, and
takes what is not recognised here, a path behind an unusual mount say.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from api.http.problems import response_for
from api.routes.jobs import take_job

PATH = "/v1/jobs"


class HotSubmit:
    """The application, with a short way in for single jobs."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.takes(scope):
            response = await self.answer(scope, receive)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def takes(self, scope: Scope) -> bool:
        """Whether this is a request for the short way."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return False
        path, root = scope["path"], scope.get("root_path")
        return bool(path == (root + PATH if root else PATH))

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """The answer to a job; an error that nobody expected is logged and is one too."""
        try:
            return await take_job(Request(scope, receive), self._app.state.services)
        except Exception as exc:  # noqa: BLE001 - nothing behind us would make a document of it
            return response_for(exc)

"""The hot route: `POST /v1/jobs` past the layers of FastAPI that it does not use.

Routing, dependency solving and five middlewares cost a request more than all
that is done for its job. So this one is taken out in front of them and handed
to the very function that the FastAPI route calls; its errors become the same
documents. The route stays registered, as the OpenAPI document says, and
takes what is not recognised here, a path behind an unusual mount say.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from api.problems import UNEXPECTED_STATUS, response_for
from api.routes.jobs import take_job

_PATH = "/v1/jobs"


class HotSubmit:
    """The application, with a short way in for single jobs."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_submit(scope):
            await self._app(scope, receive, send)
            return
        scope["lanefleet.route"] = _PATH
        try:
            response = await take_job(Request(scope, receive), self._app.state.services)
        except Exception as exc:
            response = response_for(exc)
            if response.status_code == UNEXPECTED_STATUS:
                await response(scope, receive, send)
                raise  # the server logs it, and closes the connection
        await response(scope, receive, send)


def _is_submit(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path: str = scope["path"]
    return path == f"{scope.get('root_path', '')}{_PATH}"

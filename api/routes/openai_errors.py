"""Errors in OpenAI's shape.

The stock client distinguishes errors by status and reads `error.message`, `type`, `param` and
`code`; it expects 400 for an invalid field, not 422.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from api.http.openai_shape import openai_error
from api.http.problems import Problem, problem_for, responses


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIErrorBody(BaseModel):
    """The envelope of every error."""

    error: OpenAIError


def openai_errors(**by_status: str) -> dict[int | str, dict[str, Any]]:
    """OpenAI's envelope by status, for OpenAPI; refusals before the route are problem documents."""
    return {
        status: {**declared, "model": OpenAIErrorBody}
        for status, declared in responses(**by_status).items()
    }


class OpenAIRoute(APIRoute):
    """A route whose every error has OpenAI's shape, those of its dependencies too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with its errors converted."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except Exception as exc:  # noqa: BLE001 - the boundary
                return error_response(problem_for(exc))

        return handle


def error_response(problem: Problem) -> JSONResponse:
    """A problem in OpenAI's envelope."""
    status = 400 if problem.status == 422 else problem.status
    error = openai_error(status, problem.code, problem.detail, problem.extra)
    return JSONResponse({"error": error}, status, headers=problem.headers)

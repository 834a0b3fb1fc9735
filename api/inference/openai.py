"""OpenAI's shapes: its error envelope, its embeddings request and answer.

The stock client tells errors apart by status and reads `error.message`,
`type`, `param` and `code`; a field that is wrong is a 400 to it, not a 422.
"""

from __future__ import annotations

import math
import sys
from array import array
from base64 import b64encode
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

import orjson
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from api.http.problems import Problem, problem_for

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {"unknown_model": "model_not_found"}
_PARAMS = {"unknown_model": "model", "wrong_task": "model", "model_required": "model"}


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIErrorBody(BaseModel):
    """The envelope of every error."""

    error: OpenAIError


class OpenAIRoute(APIRoute):
    """A route whose every error has OpenAI's shape, those of its dependencies too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with its errors turned."""
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
    usual = "server_error" if status >= 500 else "invalid_request_error"
    error = {
        "message": problem.detail,
        "type": _TYPES.get(status, usual),
        "param": problem.extra.get("param") or _PARAMS.get(problem.code),
        "code": _CODES.get(problem.code, problem.code),
    }
    return JSONResponse({"error": error}, status, headers=problem.headers)


class EmbeddingsRequest(BaseModel):
    """As OpenAI's client sends it; fields that this API does not know are ignored."""

    model: str = Field(description="A name from /v1/models whose `task` is embed.")
    input: str | list[str] = Field(description="One text, or a list of them.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64 is little-endian fp32, as the stock client asks for."
    )
    dimensions: int | None = Field(
        None, description="A length that the model's catalog entry lists; others are refused."
    )
    user: str | None = Field(None, description="Ignored.")


class EmbeddingsItem(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Tokens as the model itself counted them, after cutting what was too long."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """One item per input, in order."""

    object: Literal["list"] = "list"
    data: list[EmbeddingsItem]
    model: str
    usage: EmbeddingsUsage


def embeddings_json(model: str, results: Sequence[Any], asked: EmbeddingsRequest) -> bytes:
    """The answer as JSON, from what the model answered for each input.

    Raises a 500 problem where the model's results are no embeddings.
    """
    try:
        vectors = [_shortened(result["embedding"], asked.dimensions) for result in results]
        tokens = sum(int(result.get("tokens") or 0) for result in results)
    except (TypeError, KeyError, AttributeError) as exc:
        detail = f"{model!r} is for embed in the catalog, but its result has no `embedding`"
        raise Problem(500, "wrong_result", detail) from exc
    if asked.encoding_format == "base64":
        vectors = [_packed(vector) for vector in vectors]
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def _shortened(vector: list[float], dimensions: int | None) -> Any:
    """The first of its numbers, brought back to unit length."""
    if dimensions is None or dimensions >= len(vector):
        return vector
    cut = vector[:dimensions]
    length = math.hypot(*cut) or 1.0
    return [number / length for number in cut]


def _packed(vector: list[float]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()

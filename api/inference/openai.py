"""OpenAI's embeddings in the format of its stock client."""

from __future__ import annotations

import math
import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from api.http.request_errors import WrongResult


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
    """The response as JSON, from the model's result for each input.

    Raises WrongResult where the model's results are not embeddings.
    """
    try:
        vectors = [_shortened(result["embedding"], asked.dimensions) for result in results]
        tokens = sum(int(result.get("tokens") or 0) for result in results)
    except (TypeError, KeyError, AttributeError) as exc:
        detail = f"{model!r} is for embed in the catalog, but its result has no `embedding`"
        raise WrongResult(detail) from exc
    if asked.encoding_format == "base64":
        vectors = [_packed(vector) for vector in vectors]
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def _shortened(vector: list[float], dimensions: int | None) -> Any:
    """The vector cut to `dimensions` and normalised to unit length."""
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

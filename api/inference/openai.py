"""OpenAI's embeddings in the format of its stock client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from api.http.request_errors import WrongResult
from common.batches.embeddings import embeddings_body


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
        return embeddings_body(model, results, asked.dimensions, asked.encoding_format == "base64")
    except (TypeError, KeyError, AttributeError) as exc:
        detail = f"{model!r} is for embed in the catalog, but its result has no `embedding`"
        raise WrongResult(detail) from exc

"""OpenAI's form of vectors: cut to a length, and packed. Pure."""

from __future__ import annotations

import math
import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import orjson


def embeddings_body(
    model: str, results: Sequence[Any], dimensions: int | None, base64: bool
) -> bytes:
    """The response as JSON, from the model's result for each input.

    Raises TypeError, KeyError or AttributeError where the results are no embeddings.
    """
    vectors = [_shortened(result["embedding"], dimensions) for result in results]
    tokens = sum(int(result.get("tokens") or 0) for result in results)
    if base64:
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

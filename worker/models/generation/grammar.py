"""JSON by a schema: which tokens may come next, from llguidance (extra `json-schema`).

It is a grammar library that several servers use too; it takes tokenizer.json and the schema, and
gives a bit a token. Without it the option is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from common.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ("Constraint", "Grammars")

_MAX_SCHEMA_CHARACTERS = 65_536


class Constraint(Protocol):
    """What one choice may still say."""

    def mask(self, logits: Tensor) -> None:
        """Rule out, in place, what may not come next. Raises ValueError where nothing may."""

    def take(self, token: int) -> None:
        """The choice has said this token."""

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""


class Grammars:
    """Makes constraints for one tokenizer; reads it when the first schema comes."""

    def __init__(self, tokenizer_json: Path, vocabulary: int, end: int | None) -> None:
        self._path = tokenizer_json
        self._vocabulary = vocabulary
        self._end = end
        self._tokenizer: Any = None

    def compile(self, schema: Mapping[str, Any]) -> Any:
        """A matcher at its beginning, of which each choice takes a copy.

        Raises InvalidInput for a schema that is none, or without the library.
        """
        try:
            import llguidance
        except ImportError as exc:
            raise InvalidInput(
                "params.json_schema: this worker lacks the grammar library; its operator can "
                "install the extra `json-schema`"
            ) from exc
        text = json.dumps(schema)
        if len(text) > _MAX_SCHEMA_CHARACTERS:
            raise InvalidInput(
                f"params.json_schema has {len(text):,} characters; send at most "
                f"{_MAX_SCHEMA_CHARACTERS:,}"
            )
        if self._tokenizer is None:
            self._tokenizer = llguidance.LLTokenizer(
                str(self._path), n_vocab=self._vocabulary, eos_token=self._end
            )
        grammar = llguidance.LLMatcher.grammar_from_json_schema(text)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidInput(f"params.json_schema: {_one_line(matcher.get_error())}")
        first = matcher.deep_copy()
        first.compute_bitmask()  # only now it shows where there is no first token
        if first.is_error():
            raise InvalidInput("params.json_schema: there is nothing that satisfies it")
        return matcher


class Matched:
    """One choice's place in its grammar."""

    def __init__(self, compiled: Any) -> None:
        self._matcher = compiled.deep_copy()

    def mask(self, logits: Tensor) -> None:
        """See Constraint."""
        import torch

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)].astype(np.bool_)
        if self._matcher.is_error() or not allowed.any():
            raise ValueError(f"json_schema: {_one_line(self._matcher.get_error())}")
        ruled_out = np.ones(len(logits), np.bool_)
        ruled_out[: len(allowed)] = ~allowed
        logits.masked_fill_(torch.from_numpy(ruled_out).to(logits.device), float("-inf"))

    def take(self, token: int) -> None:
        """See Constraint."""
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """See Constraint."""
        return bool(self._matcher.is_stopped())


def _one_line(error: str | None) -> str:
    return " ".join((error or "").split())[:300] or "no token can follow"

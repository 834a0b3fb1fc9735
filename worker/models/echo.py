"""No model at all: returns the length and digest of its input, to try and to time the queue.

It runs at tens of thousands of jobs a second in the benchmarks, so that
what is measured is the fleet; every line here is on that path.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from common.catalog import ModelSpec
from common.errors import InferenceFailed, InvalidInput
from worker.models.base import Json
from worker.models.params import read_number

__all__ = ("Echo",)

MAX_SLEEP_MS = 60_000


class Said(NamedTuple):
    """The input as bytes, and how the client wants the echo to misbehave.

    A named tuple because it is made in a third of a frozen dataclass's time.
    """

    content: bytes
    sleep_ms: float = 0.0
    failure: str | None = None


class Echo:
    """Takes any JSON; `params.sleep_ms` delays its batch, `params.fail` fails it."""

    def load(self, spec: ModelSpec, device: str) -> None:
        """Nothing to read."""

    def decode(self, value: Any, params: Mapping[str, Any]) -> Said:
        """The value's canonical bytes: UTF-8 of a string, else JSON with sorted keys."""
        try:
            if isinstance(value, str):
                content = value.encode()
            else:
                content = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except (UnicodeEncodeError, orjson.JSONEncodeError) as exc:
            raise InvalidInput(f"the input has no canonical JSON form: {exc}") from exc
        if not params:
            return Said(content)
        sleep_ms = read_number(params, "sleep_ms", 0.0, 0.0, MAX_SLEEP_MS)
        failure = params.get("fail")
        return Said(content, sleep_ms, None if failure is None else str(failure))

    def cost(self, item: Said) -> float:  # noqa: ARG002  the protocol's signature
        """Every echo costs the same."""
        return 1.0

    def infer(self, items: Sequence[Said]) -> Sequence[dict[str, Json]]:
        """Sleep as long as the slowest item asks, fail if any item asks, then answer."""
        if sleep_ms := max(item.sleep_ms for item in items):
            time.sleep(sleep_ms / 1000)
        for item in items:
            if item.failure is not None:
                raise InferenceFailed(item.failure)
        return [
            {
                "length": len(item.content),
                "digest": "sha256:" + hashlib.sha256(item.content).hexdigest(),
            }
            for item in items
        ]

    def encode(self, output: dict[str, Json]) -> Json:
        """Already JSON."""
        return output

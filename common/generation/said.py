"""The entries of a generation's stream: what one step, or a few, added to its choices.

`{"c": [{"i": choice, "t": [token ids], "x": text, "l": [logprobs]?, "f": finish?}]}`. Text lags
behind tokens where it is not certain yet, so an entry may have tokens and no text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(slots=True)
class Delta:
    """What was added to one choice."""

    choice: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str = ""
    """Why it ended; empty while it goes on."""


def dump_entry(deltas: Iterable[Delta]) -> bytes:
    """An entry as Redis keeps it."""
    choices = []
    for one in deltas:
        choice: dict[str, Any] = {"i": one.choice, "t": one.tokens, "x": one.text}
        if one.logprobs:
            choice["l"] = one.logprobs
        if one.finish:
            choice["f"] = one.finish
        choices.append(choice)
    return orjson.dumps({"c": choices})


def read_entry(raw: bytes | str) -> list[Delta]:
    """The deltas of an entry; raises ValueError or KeyError where it is none."""
    return [
        Delta(one["i"], one["t"], one["x"], one.get("l", []), one.get("f", ""))
        for one in orjson.loads(raw)["c"]
    ]

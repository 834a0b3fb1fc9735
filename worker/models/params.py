"""Read a job's params strictly: a misspelt or impossible one is refused, not ignored."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from common.errors import InvalidInput

__all__ = ("read_integer", "read_number", "refuse_unknown")


def refuse_unknown(params: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise InvalidInput for the first param that the model does not take."""
    for name in params:
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise InvalidInput(f"unknown param {str(name)[:80]!r}; this model takes: {takes}")


def read_number(
    params: Mapping[str, Any], name: str, default: float, low: float, high: float
) -> float:
    """The param as a number between low and high, both included."""
    value = params.get(name, default)
    # bool is an int to Python; to a client it is a mistake.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"params.{name} must be a number between {low:g} and {high:g}")
    if not low <= value <= high or not math.isfinite(value):
        raise InvalidInput(f"params.{name} must be between {low:g} and {high:g}, not {value:g}")
    return float(value)


def read_integer(params: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """The param as a whole number between low and high, both included."""
    value = read_number(params, name, default, low, high)
    if not value.is_integer():
        raise InvalidInput(f"params.{name} must be a whole number, not {value:g}")
    return int(value)

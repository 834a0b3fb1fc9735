"""Whether two results are the same but for rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from worker.models.base import Json

__all__ = ("ROUNDING", "difference")

ROUNDING: Mapping[str, float] = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
"""By precision, the largest difference of a number, as a share of the largest in its result."""


def difference(left: Json, right: Json) -> float:
    """0 for equal results, infinite where their texts or shapes differ."""
    pairs: list[tuple[float, float]] = []
    for pair in _pairs(left, right):
        if pair is None:
            return math.inf
        pairs.append(pair)
    size = max((max(abs(a), abs(b)) for a, b in pairs), default=0.0)
    apart = max((abs(a - b) for a, b in pairs), default=0.0)
    return apart / size if size and apart else 0.0


def _pairs(left: Json, right: Json) -> Iterator[tuple[float, float] | None]:
    """Numbers of the same place; None where the two have no such."""
    if _is_number(left) and _is_number(right):
        yield float(left), float(right)
    elif isinstance(left, Mapping) and isinstance(right, Mapping):
        if left.keys() != right.keys():
            yield None
            return
        for key in left:
            yield from _pairs(left[key], right[key])
    elif _is_list(left) and _is_list(right):
        if len(left) != len(right):
            yield None
            return
        for one, other in zip(left, right, strict=True):
            yield from _pairs(one, other)
    elif left != right:
        yield None


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Json) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)

"""How far two lists of results agree: the figure that gates a backend, a precision or a tool.

It is told by what a result holds: an embedding, labels or boxes; else by all numbers in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import ConfigurationError
from worker.models.base import Json

__all__ = ("Agreement", "agreement_of", "refuse_nan_in")

_SAME_BOX = 0.5
"""Least intersection over union of two boxes that are the same."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """0 to 1 (a cosine may be negative); 1 is the same."""

    measure: str
    """What `value` is: `min cosine`, `top-1`, `boxes`."""
    value: float
    mean: float
    """Of all samples; for `top-1` the same as `value`."""
    samples: int


def agreement_of(expected: Sequence[Json], found: Sequence[Json]) -> Agreement:
    """Compare results, item by item. NaN anywhere is 0. Raises ValueError on unlike lengths."""
    measure, compare, worst = _comparison(expected[0] if expected else None)
    scores = [_finite(compare(*pair)) for pair in zip(expected, found, strict=True)]
    mean = sum(scores) / len(scores) if scores else 0.0
    value = min(scores, default=0.0) if worst else mean
    return Agreement(measure, value, mean, len(scores))


def refuse_nan_in(results: Sequence[Json], model: str) -> None:
    """Raise ConfigurationError where one of a model's own results is not finite."""
    if not all(math.isfinite(number) for result in results for number in _numbers(result)):
        raise ConfigurationError(
            f"models.{model}: its own results for samples have NaN or infinity in them, so nothing "
            "can be compared with them; `lanefleet check` tells more, and whole weights help"
        )


def _comparison(result: Json) -> tuple[str, Callable[[Json, Json], float], bool]:
    keys = result.keys() if isinstance(result, Mapping) else ()
    if "embedding" in keys:
        return "min cosine", lambda a, b: _cosine(a["embedding"], b["embedding"]), True
    if "labels" in keys:
        return "top-1", _same_first_label, False
    if "boxes" in keys:
        return "boxes", _same_boxes, False
    return "min cosine", lambda a, b: _cosine([*_numbers(a)], [*_numbers(b)]), True


def _finite(score: float) -> float:
    return score if math.isfinite(score) else 0.0


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.shape != right.shape:
        return 0.0
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / size if size else float(np.array_equal(left, right))


def _same_first_label(a: Json, b: Json) -> float:
    firsts = [one["labels"][0]["label"] if one["labels"] else None for one in (a, b)]
    return float(firsts[0] == firsts[1])


def _same_boxes(a: Json, b: Json) -> float:
    """Share of boxes that have a partner of the same label in the other result."""
    if not a["boxes"] and not b["boxes"]:
        return 1.0
    left, partners = list(b["boxes"]), 0
    for box in a["boxes"]:
        for other in left:
            same = box.get("label") == other.get("label")
            if same and _overlap(_corners(box), _corners(other)) >= _SAME_BOX:
                left.remove(other)
                partners += 1
                break
    return 2 * partners / (len(a["boxes"]) + len(b["boxes"]))


def _corners(box: Json) -> tuple[float, float, float, float]:
    if "box" in box:
        x0, y0, x1, y1 = box["box"]
        return x0, y0, x1, y1
    xs, ys = zip(*box["polygon"], strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((one[2] - one[0]) * (one[3] - one[1]) for one in (a, b))
    return width * height / (areas - width * height)


def _numbers(value: Json) -> Iterator[float]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int | float):
        yield float(value)
    else:
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(one)

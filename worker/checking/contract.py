"""Runs a model's verbs on inputs of several sizes, alone and in batches, and compares results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.jobs.result_document import dump_result
from worker.checking.fault import Fault
from worker.checking.inputs import Inputs
from worker.checking.likeness import ROUNDING, difference
from worker.checking.verbs import Verbs

__all__ = ("check_results",)

_MOST_ITEMS = 12


def check_results(verbs: Verbs, inputs: Inputs) -> dict[str, Any]:
    """Figures for the report. Raises Fault where a result depends on its batch mates."""
    items = inputs.items[:_MOST_ITEMS]
    for item in items:
        verbs.cost(item)
    alone = [verbs.results([item])[0] for item in items]
    again = [verbs.results([item])[0] for item in items]
    repeatable = all(difference(*pair) == 0 for pair in zip(alone, again, strict=True))
    if not repeatable and verbs.spec.keeps_results_seconds:
        raise Fault(
            "the same input gave another result the second time, and the catalog has its results "
            "kept; set `cache_seconds: 0` and `run_identical_once: false`"
        )
    apart = _apart(verbs, items, alone) if repeatable else None
    return {
        "inputs": inputs.text(),
        "repeatable": repeatable,
        "batch_difference": apart,
        "result_bytes": max(len(dump_result(one)) for one in alone),
    }


def _apart(verbs: Verbs, items: Sequence[Any], alone: Sequence[Any]) -> float:
    """The largest difference of an item's result in a batch from its result alone."""
    rounding, most = ROUNDING[verbs.spec.precision], 0.0
    for order in _orders(len(items), verbs.spec.max_batch):
        results = verbs.results([items[at] for at in order])
        for at, found in zip(order, results, strict=True):
            apart = difference(alone[at], found)
            most = max(most, apart)
            if not apart <= rounding:
                raise Fault(
                    _sentence(apart, rounding, verbs.spec.precision, len(order)),
                    "batch",
                    verbs.place("infer"),
                )
    return most


def _sentence(apart: float, rounding: float, precision: str, size: int) -> str:
    much = f"by {apart:.2g} of its largest number" if apart < 1e9 else "in its texts or its shape"
    return (
        f"an item's result in a batch of {size} differs from its result alone {much} (rounding of "
        f"{precision} explains {rounding:g}); mask the padding, keep the order of the items, and "
        "let no item see another (docs/models.md#three-rules-for-handlers)"
    )


def _orders(count: int, max_batch: int) -> list[list[int]]:
    """Batches by the places of their items: as they come, turned round, equal ones, two by two."""
    size = min(count, max_batch)
    forward = list(range(count))
    orders = [forward[:size], forward[::-1][:size], [0] * min(3, max_batch)]
    orders += [[at, (at + 1) % count] for at in range(count)] if max_batch > 1 else []
    return [one for one in orders if one]

"""Compares a model with its fp32 reference: how far results agree, and which is faster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from common.errors import InvalidInput
from worker.checking.verbs import Verbs
from worker.models.agreement import Agreement, agreement_of

__all__ = ("Compared", "compare")

_ROUNDS = 9
_LEAST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """The figures of a verdict."""

    agreement: Agreement
    ratio: float
    """Items per CPU second against the reference, one after the other on one thread."""
    refused: int
    """Inputs that the models do not take."""


def compare(reference: Verbs, model: Verbs, values: Sequence[Any], seconds: float) -> Compared:
    """values: inputs as `decode` takes them; seconds: about the longest that the timing may take.

    Raises Fault where one of the two does not keep the contract, or takes no input at all.
    """
    pairs = []
    for value in values:
        try:
            pairs.append((reference.decode(value), model.decode(value)))
        except InvalidInput:
            continue
    size = max(1, min(model.spec.max_batch, reference.spec.max_batch))
    expected: list[Any] = []
    found: list[Any] = []
    for batch in _batches(pairs, size):
        expected += reference.results([one for one, _ in batch])
        found += model.results([one for _, one in batch])
    agreement = agreement_of(expected, found)
    batch = pairs[:size]
    ratio = _ratio(reference, model, batch, seconds) if batch else 1.0
    return Compared(agreement, round(ratio, 3), len(values) - len(pairs))


def _batches(pairs: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for at in range(0, len(pairs), size):
        yield pairs[at : at + size]


def _ratio(reference: Verbs, model: Verbs, batch: Sequence[Any], seconds: float) -> float:
    """The median of rounds in which each of the two runs the batch once."""
    ratios = []
    until = time.monotonic() + seconds
    sides = ((reference, [one for one, _ in batch]), (model, [one for _, one in batch]))
    for done in range(_ROUNDS):
        spent = []
        for verbs, items in sides if done % 2 else sides[::-1]:
            began = time.process_time()
            verbs.infer_fast(items)
            spent.append(max(time.process_time() - began, 1e-9))
        ours, theirs = spent if not done % 2 else spent[::-1]
        ratios.append(theirs / ours)
        if done + 1 >= _LEAST_ROUNDS and time.monotonic() >= until:
            break
    return median(ratios)

"""Judges quantized folders by the handler that will serve them.

Expected are the results of the baseline: the model as it is served now, in fp32. One half of the
samples scores the tries of the search, the other one judges its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from common.catalog import ModelSpec
from common.errors import FleetError
from worker.models.agreement import Agreement, agreement_of, refuse_nan_in
from worker.models.base import Json, Model
from worker.models.facts import GRAPH
from worker.tools.pace import compare, outputs_of
from worker.tools.quantizing.search import Score
from worker.tools.report import Progress

__all__ = ("Judge", "Verdict")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a quantized model did on what no choice has seen, on one backend."""

    backend: str
    agreement: Agreement | None
    ratio: float
    bytes: int
    failure: str = ""
    """Why it could not be run."""

    def refusal(self, tolerance: float) -> str:
        """Why it is not to be served; empty where it may."""
        if self.failure or self.agreement is None:
            return self.failure
        said = self.agreement
        if said.value < tolerance:
            return (
                f"{said.measure} {said.value:.4f} on {said.samples} held-out samples is less than "
                f"{tolerance}; give more samples to tune by, or lower --tolerance"
            )
        if self.ratio <= 1:
            return f"{self.ratio:.2f}x, no faster than fp32 on this machine; keep fp32"
        return ""

    def passes(self, tolerance: float) -> bool:
        """Whether it may be served."""
        return not self.refusal(tolerance)


class Judge:
    """Runs folders through the handler."""

    def __init__(
        self,
        baseline: Model,
        load: Callable[[ModelSpec], Model],
        spec: ModelSpec,
        tuning: Sequence[Any],
        held: Sequence[Any],
        progress: Progress,
        batch: int = 16,
    ) -> None:
        """tuning, held: items, as the baseline's `decode` returns them."""
        self._baseline, self._load, self._spec = baseline, load, spec
        self._progress, self._batch = progress, batch
        self._tries = count(1)
        self.tuning_items, self._held_items = tuning, held
        self._expected = self._results(baseline, self.tuning_items)
        self._held_expected = self._results(baseline, self._held_items)
        refuse_nan_in(self._expected + self._held_expected, spec.name)
        self.measure = agreement_of(self._expected, self._expected).measure

    def score(self, folder: Path) -> Score:
        """How it does on the tuning half, on ONNX Runtime."""
        number = next(self._tries)
        self._progress(f"try {number}", number, 0)
        results = self._results(self._open(folder, "onnx"), self.tuning_items)
        found = agreement_of(self._expected, results)
        return Score(found.value, _closeness(self._expected, results, found))

    def verdict(self, folder: Path, backend: str) -> Verdict:
        """How it does on the held-out half, and how fast beside the baseline."""
        size = (folder / GRAPH).stat().st_size
        try:
            handler = self._open(folder, backend)
            results = self._results(handler, self._held_items)
        except FleetError as exc:
            return Verdict(backend, None, 0.0, size, str(exc))
        found = agreement_of(self._held_expected, results)
        batch = self._held_items[: min(self._batch, self._spec.max_batch)]
        pace = compare(
            lambda: outputs_of(self._baseline, batch),
            lambda: outputs_of(handler, batch),
            self._progress,
            doing=f"measuring {backend}",
        )
        return Verdict(backend, found, pace.ratio, size)

    def _open(self, folder: Path, backend: str) -> Model:
        update = {"weights": str(folder.absolute()), "backend": backend, "precision": "int8"}
        return self._load(self._spec.model_copy(update=update))

    def _results(self, handler: Model, items: Sequence[Any]) -> list[Json]:
        """By batches of like items, so that little is padded; in the order of the items."""
        order = sorted(range(len(items)), key=lambda index: self._baseline.cost(items[index]))
        results: list[Json] = [None] * len(items)
        for first in range(0, len(order), self._batch):
            chosen = order[first : first + self._batch]
            outputs = outputs_of(handler, [items[index] for index in chosen])
            for index, output in zip(chosen, outputs, strict=True):
                results[index] = handler.encode(output)
        return results


def _closeness(expected: Sequence[Json], found: Sequence[Json], agreement: Agreement) -> float:
    """Of labels the scores, since two tries may have the same labels; else the agreement."""
    if agreement.measure != "top-1":
        return agreement.value
    return 1 - sum(map(_score_change, expected, found)) / max(1, len(expected))


def _score_change(expected: Json, found: Json) -> float:
    first = expected["labels"][0]
    scores = {one["label"]: one["score"] for one in found["labels"]}
    return abs(float(first["score"]) - float(scores.get(first["label"], 0.0)))

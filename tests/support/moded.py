"""A model whose results and speed depend on its precision, to be judged by the accuracy gate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.catalog import ModelSpec


class Moded:
    """options: `error` turns the vector of all precisions but fp32, `spin_ms` is CPU time."""

    def load(self, spec: ModelSpec, device: str) -> None:
        other = spec.precision != "fp32"
        self._error = float(spec.options.get("error", 0)) if other else 0.0
        self._spin = float(spec.options.get("spin_ms", 0)) / 1000 if other else 0.001

    def decode(self, value: Any, params: Mapping[str, Any]) -> float:
        return float(len(value))

    def cost(self, item: float) -> float:
        return 1.0

    def infer(self, items: Sequence[float]) -> list[list[float]]:
        until = time.thread_time() + self._spin
        while time.thread_time() < until:
            pass
        return [[1.0, item * self._error] for item in items]

    def encode(self, output: list[float]) -> Any:
        return {"embedding": output}

    def example(self) -> str:
        return "an example"

"""A handler with a small network of many small steps, which compiling makes one of."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.catalog import ModelSpec
from worker.models.compiled import Compilable, Run


class Steps:
    """Takes 16 numbers; returns as many. Says who ran it."""

    def load(self, spec: ModelSpec, device: str) -> None:
        """options: slowly, to run a compiled network five times."""
        import torch

        class Network(torch.nn.Module):
            def forward(self, numbers: torch.Tensor) -> torch.Tensor:
                for step in range(60):
                    numbers = torch.tanh(numbers * 0.9 + step / 60) + 0.01 * numbers.abs()
                return numbers

        del device
        self.times = 5 if spec.options.get("slowly") else 1
        self.network: Any = Network()
        self.ran = "eager"

    def decode(self, value: Any, params: Any) -> Any:
        """16 numbers."""
        del params
        return np.asarray(value, np.float32)

    def cost(self, item: Any) -> float:
        """One."""
        del item
        return 1.0

    def infer(self, items: Any) -> Any:
        """All of them at once."""
        import torch

        with torch.inference_mode():
            return list(self.network(torch.from_numpy(np.stack(items))).numpy())

    def encode(self, output: Any) -> Any:
        """The numbers, and who made them."""
        return {"embedding": output.tolist(), "ran": self.ran}

    def example(self) -> list[float]:
        """Sixteen."""
        return [index / 16 for index in range(16)]

    def compilable(self) -> Compilable:
        """Rows of 16."""
        import torch

        return Compilable(self.network, (torch.zeros(2, 16),), ({0: torch.export.Dim("rows")},))

    def use_compiled(self, run: Run) -> None:
        """Run that."""

        def often(rows: Any) -> Any:
            for _ in range(self.times * 20 if self.times > 1 else 1):
                found = run(rows)
            return found

        self.network, self.ran = often, "compiled"

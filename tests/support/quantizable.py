"""A handler that runs in torch or from a graph: layers of which one does not bear int8."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.catalog import ModelSpec
from worker.models.exportable import Export
from worker.models.facts import GRAPH
from worker.models.sessions import session_for
from worker.models.weights import find_weights

WIDTH = 768


class Wide:
    """Embeds 768 numbers. options: layers; plain, for an activation without outliers."""

    def load(self, spec: ModelSpec, device: str) -> None:
        """A graph where the backend says so."""
        self.network: Any = None
        self.session: Any = None
        if spec.backend in ("onnx", "openvino"):
            self.session = session_for(spec, find_weights(spec.weights) / GRAPH, device)
            return
        import torch

        class Spiky(torch.nn.Module):
            """Makes one number large that nobody reads, so int8 has no room for the others."""

            def forward(self, numbers: torch.Tensor) -> torch.Tensor:
                first = torch.zeros(WIDTH)
                first[0] = 100.0
                return numbers + first

        layers: list[Any] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(18)
            for number in range(int(spec.options.get("layers", 4))):
                if number == 1 and not spec.options.get("plain"):
                    layers.append(Spiky())
                layer = torch.nn.Linear(WIDTH, WIDTH, bias=False)
                if number == 1:
                    layer.weight.data[:, 0] = 0
                layers += [layer, torch.nn.Tanh()]
        self.network = torch.nn.Sequential(*layers).eval()

    def decode(self, value: Any, params: Any) -> Any:
        """A row, of a text's letters."""
        del params
        seed = int.from_bytes(value.encode()[:8].ljust(8))
        return np.random.default_rng(seed).standard_normal(WIDTH, np.float32)

    def cost(self, item: Any) -> float:
        """One."""
        del item
        return 1.0

    def infer(self, items: Any) -> Any:
        """By whichever there is."""
        rows = np.stack(items)
        if self.session is not None:
            return list(self.session.run({"numbers": rows})[0])
        import torch

        with torch.inference_mode():
            return list(self.network(torch.from_numpy(rows)).numpy())

    def encode(self, output: Any) -> Any:
        """As an embedding."""
        return {"embedding": output.tolist()}

    def example(self) -> str:
        """Any text."""
        return "text"

    def export(self) -> Export:
        """Rows of 768."""

        def random(count: int) -> dict[str, Any]:
            return {
                "numbers": np.random.default_rng(count).standard_normal((count, WIDTH), np.float32)
            }

        return Export(
            network=self.network,
            inputs={"numbers": {0: "batch"}},
            outputs=("vectors",),
            random=random,
            feeds=lambda items: {"numbers": np.stack(items)},
        )

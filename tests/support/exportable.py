"""Small handlers that can be exported, and one that says it can and cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.catalog import ModelSpec
from worker.models.exportable import Export

SIDE, CLASSES = 8, 3


class Small:
    """Classifies pictures that are given as lists of numbers, 3 x 8 x 8."""

    def load(self, spec: ModelSpec, device: str) -> None:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
            last = torch.nn.Linear(4 * SIDE * SIDE, CLASSES)
        self.network: Any = torch.nn.Sequential(
            convolution, torch.nn.ReLU(), torch.nn.Flatten(), last
        ).eval()

    def decode(self, value: Any, params: Mapping[str, Any]) -> Any:
        return np.asarray(value, np.float32)

    def cost(self, item: Any) -> float:
        return float(item.size)

    def infer(self, items: Sequence[Any]) -> Any:
        import torch

        with torch.inference_mode():
            return self.network(torch.from_numpy(np.stack(items))).numpy()

    def encode(self, output: Any) -> Any:
        return {"logits": output.tolist()}

    def example(self) -> Any:
        return np.zeros((3, SIDE, SIDE)).tolist()

    def export(self) -> Export:
        from worker.models.exported_network import classifier

        files = {"labels.json": json.dumps(["a", "b", "c"])}
        return classifier(self.network, (3, SIDE, SIDE), np.stack, files)


class Branching(Small):
    """Decides by values in Python, which no graph can."""

    def export(self) -> Export:
        import torch

        from worker.models.exported_network import classifier

        class Network(torch.nn.Module):
            def forward(self, pixel_values: Any) -> Any:
                return pixel_values if pixel_values.sum() > 0 else -pixel_values

        return classifier(Network(), (3, SIDE, SIDE), np.stack)


class Wrong(Small):
    """Gives other numbers once it is traced."""

    def export(self) -> Export:
        import torch

        from worker.models.exported_network import classifier

        class Network(torch.nn.Module):
            def forward(self, pixel_values: Any) -> Any:
                traced = torch.compiler.is_exporting()
                return pixel_values.flip(1) if traced else pixel_values

        return classifier(Network(), (3, SIDE, SIDE), np.stack)

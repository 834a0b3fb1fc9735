"""Prunes whatever a handler exports: a network of its own, whose channels torch-pruning follows.

No configuration tells what is left, so it is written as an ONNX graph, as `lanefleet export` writes
them, for the backends onnx and openvino. It is compared in torch with the whole one, so that the
figure is that of the pruning and not of the backend.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Json
from worker.models.exportable import Export
from worker.models.exporting import write_graph
from worker.models.facts import FACTS, GRAPH, Facts, content_digest, write_facts
from worker.models.pruned import fit
from worker.models.sessions import open_session
from worker.models.weights import find_weights, located
from worker.tools.training.loop import Judgement, slices

__all__ = ("GraphSubject",)

_BATCH = 16
_SAME = 0.999
"""Least cosine of the graph's outputs with torch's."""


class GraphSubject:
    """A network that a handler exports, with the items to learn from and to judge by."""

    def __init__(self, spec: ModelSpec, export: Export, items: Sequence[Sequence[Any]]) -> None:
        self.handler, self._spec, self._export, self._items = spec.handler, spec, export, items
        self._network = copy.deepcopy(export.network).eval()
        self._are_logits = export.outputs[0] == "logits"

    @property
    def network(self) -> nn.Module:
        """The exported one."""
        return self._network

    def narrow(self, share: float) -> None:
        """So many channels of each layer but the last, those of the smallest weights."""
        try:
            import torch_pruning
        except ImportError as exc:
            raise ConfigurationError(f"{exc}; install it with: pip install '.[tools]'") from exc
        feeds = self._export.random(2)
        example = tuple(torch.from_numpy(np.array(feeds[name])) for name in self._export.inputs)
        with torch.no_grad():
            width = _first(self._network(*example)).shape[1]
        last = [
            one
            for one in self._network.modules()
            if isinstance(one, nn.Linear | nn.Conv2d) and one.weight.shape[0] == width
        ]
        self._network.requires_grad_(requires_grad=True)
        pruner = torch_pruning.pruner.MagnitudePruner(
            self._network,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=share,
            ignored_layers=last,
        )
        pruner.step()

    def learner(self) -> _GraphLearner:
        """Against the outputs of the whole one."""
        self._network.requires_grad_(requires_grad=True)
        return _GraphLearner(self, self._items)

    def outputs(self, network: nn.Module, items: Sequence[Any]) -> Tensor:
        """The first output, a row an item."""
        feeds = self._export.feeds(items)
        return _first(network(*(torch.from_numpy(feeds[name]) for name in self._export.inputs)))

    def apart(self, found: Tensor, expected: Tensor) -> Tensor:
        """How far each row is from what it should be."""
        if self._are_logits:
            wanted = F.log_softmax(expected, 1)
            return (wanted.exp() * (wanted - F.log_softmax(found, 1))).sum(1)
        return 1 - F.cosine_similarity(found, expected, dim=1)

    def agreed(self, found: Tensor, expected: Tensor) -> Tensor:
        """Of each row: the cosine, or whether the first label is the same."""
        if self._are_logits:
            return (found.argmax(1) == expected.argmax(1)).float()
        return F.cosine_similarity(found, expected, dim=1)

    def expected(self, items: Sequence[Any]) -> Tensor:
        """What the whole one gives."""
        with torch.no_grad():
            some = [self.outputs(self._export.network, one) for one in slices(items, _BATCH)]
        return torch.cat(some)

    def save(self, folder: Path) -> None:
        """model.onnx and what goes with it. Raises ConfigurationError where it is not the same."""
        made = replace(self._export, network=self._network.eval())
        write_graph(made, folder / GRAPH, self._spec.name)
        weights = find_weights(self._spec.weights) if located(self._spec.weights) else None
        for path in weights.iterdir() if weights is not None and weights.is_dir() else ():
            if path.suffix in (".json", ".txt") and path.name not in (FACTS, "origin.json"):
                shutil.copyfile(path, folder / path.name)
        for name, text in self._export.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        digest = content_digest(weights) if weights is not None else self._spec.weights
        ports = tuple(self._export.inputs), tuple(self._export.outputs)
        write_facts(folder, Facts(self.handler, "onnx", "fp32", digest, *ports))
        self._check(folder)

    def _check(self, folder: Path) -> None:
        feeds = self._export.random(3)
        (found, *_) = open_session(folder / GRAPH).run(feeds)
        with torch.no_grad():
            parts = (torch.from_numpy(feeds[name]) for name in self._export.inputs)
            wanted = _first(self._network(*parts))
        least = float(F.cosine_similarity(torch.from_numpy(found), wanted, dim=1).min())
        if least < _SAME:
            raise ConfigurationError(
                f"the graph's results are not torch's: cosine {least:.5f}, at least {_SAME}"
            )

    def pair(self) -> tuple[Any, Any]:
        """The whole network and what is left of it, as models whose results can be compared."""
        whole, left = self._export.network, self._network
        return _AsModel(partial(self.outputs, whole), self._are_logits), _AsModel(
            partial(self.outputs, left), self._are_logits
        )

    def state(self) -> dict[str, Tensor]:
        """All tensors."""
        return {name: one.clone() for name, one in self._network.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """A network of their shapes."""
        network = copy.deepcopy(self._export.network)
        fit(network, tensors, "the checkpoint")
        self._network = network.eval()


class _GraphLearner:
    def __init__(self, subject: GraphSubject, items: Sequence[Sequence[Any]]) -> None:
        self.network, self._subject, (self._learnt, self._judged) = subject.network, subject, items
        self._targets, self._expected = subject.expected(items[0]), subject.expected(items[1])
        self.costs = [1] * len(items[0])

    def loss(self, places: Sequence[int]) -> Tensor:
        found = self._subject.outputs(self.network, [self._learnt[one] for one in places])
        return self._subject.apart(found, self._targets[list(places)]).mean()

    def judge(self) -> Judgement:
        parts = [self._subject.outputs(self.network, one) for one in slices(self._judged, _BATCH)]
        found = torch.cat(parts)
        agreed = self._subject.agreed(found, self._expected)
        finer = -float(self._subject.apart(found, self._expected).mean())
        return Judgement(float(agreed.mean()), float(agreed.min()), finer)


class _AsModel:
    """A network, as far as it takes to compare it."""

    def __init__(self, run: Callable[[Sequence[Any]], Tensor], are_logits: bool) -> None:
        self._run, self._are_logits = run, are_logits

    def infer(self, items: Sequence[Any]) -> list[Any]:
        with torch.inference_mode():
            return list(self._run(items).numpy())

    def encode(self, output: Any) -> Json:
        if self._are_logits:
            return {"labels": [{"label": int(output.argmax())}]}
        return {"embedding": output.tolist()}


def _first(found: Any) -> Tensor:
    first: Tensor = found if isinstance(found, Tensor) else found[0]
    return first

"""Prunes the channels of a ResNet, whole groups that depend on each other, by torch-pruning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Model
from worker.models.pruned import PRUNED, fit
from worker.models.resnet50 import random_network, saved_network
from worker.models.weights import RANDOM, find_weights
from worker.tools.training.models import kept_tensors
from worker.tools.training.picture_lesson import PictureLearner, fresh_norms, probabilities

__all__ = ("PictureSubject",)

_ROUND_TO = 8
_SIDE = 224
_NORM_PICTURES = 64


class PictureSubject:
    """A ResNet, with the pictures to learn from and those to judge by."""

    handler = "resnet50"

    def __init__(
        self,
        spec: ModelSpec,
        teacher: Model,
        values: tuple[Sequence[bytes], Sequence[bytes]],
        items: tuple[Sequence[Any], Sequence[Any]],
    ) -> None:
        """values, items: encoded and decoded, to learn from and to judge; may be empty."""
        self._spec, self._values = spec, values
        self._network = self._whole()
        self._targets = [probabilities(spec, teacher, part) if part else None for part in items]

    def _whole(self) -> Any:
        if self._spec.weights == RANDOM:
            return random_network().eval()
        return saved_network(find_weights(self._spec.weights), self._spec.name).eval()

    @property
    def network(self) -> nn.Module:
        """The ResNet."""
        found: nn.Module = self._network
        return found

    def narrow(self, share: float) -> None:
        """So many channels of each layer but the last, those of the smallest weights."""
        try:
            import torch_pruning
        except ImportError as exc:
            raise ConfigurationError(f"{exc}; install it with: pip install '.[tools]'") from exc
        whole = _Logits(self._network)
        classes = [one for one in whole.modules() if isinstance(one, nn.Linear)]
        pruner = torch_pruning.pruner.MagnitudePruner(
            whole,
            torch.zeros(1, 3, _SIDE, _SIDE),
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=share,
            ignored_layers=classes,
            round_to=_ROUND_TO,
        )
        pruner.step()
        if self._values[0]:
            fresh_norms(self._network, self._values[0][:_NORM_PICTURES])

    def learner(self) -> PictureLearner:
        """All but the statistics of its batch norms, which were taken anew."""
        targets, expected = self._targets
        assert targets is not None
        assert expected is not None
        learnt, judged = self._values
        return PictureLearner(self._network, learnt, targets, judged, expected)

    def save(self, folder: Path) -> None:
        """A folder of `resnet50`, which takes the shapes of its tensors."""
        setattr(self._network.config, PRUNED, True)
        self._network.config.to_json_file(folder / "config.json")
        kept_tensors(folder / "model.safetensors", self._network.state_dict())

    def state(self) -> dict[str, Tensor]:
        """The ResNet's, statistics too."""
        return {name: one.clone() for name, one in self._network.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """A ResNet of their shapes."""
        network = self._whole()
        fit(network, tensors, "the checkpoint")
        self._network = network


class _Logits(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.network(pixel_values=pictures).logits
        return found

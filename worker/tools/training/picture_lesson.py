"""Lessons for students of classifiers: a smaller ResNet that gives a teacher's probabilities.

The teacher may be any handler whose outputs have `probabilities`; only `features` needs a ResNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Model
from worker.models.resnet50 import ResNet50, random_network, saved_network
from worker.models.weights import RANDOM, find_weights
from worker.tools.pace import outputs_of
from worker.tools.training.lesson import Ask, Lesson
from worker.tools.training.loop import Judgement, slices
from worker.tools.training.models import kept_tensors, weight_files

__all__ = (
    "PictureLearner",
    "fresh_norms",
    "labels_of",
    "picture_lesson",
    "pixels",
    "probabilities",
)

_BATCH = 16
_LEAST = 1e-9
"""Probability under which none counts: the logarithm of 0 is none."""
_SEED = 1


class PictureLearner:
    """A network that gives logits, and the probabilities that they should mean."""

    def __init__(
        self,
        network: Any,
        learnt: Sequence[bytes],
        targets: Tensor,
        judged: Sequence[bytes],
        expected: Tensor,
        teacher: Any = None,
    ) -> None:
        """teacher: a ResNet whose pooled features are to be matched too."""
        self._pupil, self._teacher = network, teacher
        self.network: nn.Module = nn.ModuleDict({"student": network})
        self.costs = [1] * len(learnt)
        self._learnt, self._targets = learnt, targets
        self._judged, self._expected = judged, expected
        if teacher is not None:
            widths = (one.config.hidden_sizes[-1] for one in (network, teacher))
            self._bridge = self.network["bridge"] = nn.Linear(*widths)

    def loss(self, places: Sequence[int]) -> Tensor:
        """The divergence of probabilities, and the distance of features over their size."""
        batch = pixels([self._learnt[place] for place in places])
        wanted = self._targets[list(places)]
        if self._teacher is None:
            return _divergence(self._pupil(batch).logits, wanted).mean()
        own = self._pupil.resnet(batch).pooler_output
        with torch.no_grad():
            goal = self._teacher.resnet(batch).pooler_output.flatten(1)
        distance = F.mse_loss(self._bridge(own.flatten(1)), goal) / goal.square().mean()
        found: Tensor = _divergence(self._pupil.classifier(own), wanted).mean() + distance
        return found

    def judge(self) -> Judgement:
        """The share of equal first labels; between equals, the divergence."""
        found = torch.cat(
            [self._pupil(pixels(some)).logits for some in slices(self._judged, _BATCH)]
        )
        same = (found.argmax(1) == self._expected.argmax(1)).float()
        apart = _divergence(found, self._expected).mean()
        return Judgement(float(same.mean()), float(same.min()), -float(apart))


def picture_lesson(
    spec: ModelSpec, teacher: Model, values: tuple[Any, Any], items: tuple[Any, Any], ask: Ask
) -> Lesson:
    """values, items: encoded and decoded, to learn from and to judge. Raises ConfigurationError."""
    if spec.input != "image":
        raise ConfigurationError(
            f"{spec.name}: students are made of embedding models (handler minilm) and of "
            f"classifiers of pictures, not of {spec.handler}"
        )
    targets, expected = (probabilities(spec, teacher, part) for part in items)
    source = _resnet_of(spec)
    if ask.loss == "features" and source is None:
        raise ConfigurationError("features can be matched with a ResNet teacher; take outputs")
    labels = labels_of(teacher, items[1][0])
    config = _smaller(source.config if source is not None else ResNetConfig(), labels, ask)
    student: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        student = ResNetForImageClassification(config)
    student.eval()
    fresh_norms(student, values[0][: 4 * _BATCH])
    wanted = source if ask.loss == "features" else None
    learner = PictureLearner(student, values[0], targets, values[1], expected, wanted)
    notes = [
        f"a ResNet of depths {config.depths} and widths {config.hidden_sizes}, from random ones"
    ]

    def save(made: Path) -> None:
        config.to_json_file(made / "config.json")
        kept_tensors(made / "model.safetensors", student.state_dict())

    own = {"handler": "resnet50", "precision": "fp32", "options": {}}
    return Lesson(learner, spec.model_copy(update=own), _files(spec), notes, save)


def _smaller(config: Any, labels: Sequence[str], ask: Ask) -> Any:
    depths = [ask.layers or max(1, one // 2) for one in config.depths]
    widest = config.hidden_sizes[-1]
    share = (ask.hidden or widest // 2) / widest
    if share > 1 or any(own > one for own, one in zip(depths, config.depths, strict=True)):
        raise ConfigurationError(
            f"the teacher has depths {config.depths} and a last width of {widest}; ask for less"
        )
    return ResNetConfig(
        depths=depths,
        hidden_sizes=[max(4, round(one * share)) for one in config.hidden_sizes],
        embedding_size=max(4, round(config.embedding_size * share)),
        layer_type=config.layer_type,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )


def _resnet_of(spec: ModelSpec) -> Any:
    if spec.handler != "resnet50":
        return None
    if spec.weights == RANDOM:
        return random_network().eval()
    return saved_network(find_weights(spec.weights), spec.name).eval()


def _files(spec: ModelSpec) -> list[Path]:
    if spec.weights in (RANDOM, "none"):
        return []
    return weight_files(find_weights(spec.weights))


def probabilities(spec: ModelSpec, teacher: Model, items: Sequence[Any]) -> Tensor:
    """Of each class, a row a picture. Raises ConfigurationError for what is no classifier."""
    rows = []
    for some in slices(items, _BATCH):
        for output in outputs_of(teacher, some):
            row = getattr(output, "probabilities", None)
            if row is None:
                raise ConfigurationError(
                    f"{spec.name}: outputs of {spec.handler} have no `probabilities`, so it is no "
                    "classifier to learn from"
                )
            rows.append(torch.as_tensor(np.array(row, np.float32)))
    return torch.stack(rows)


def labels_of(teacher: Any, item: Any) -> list[str]:
    """The names of its classes, by their number."""
    (output,) = outputs_of(teacher, [item])
    order = np.argsort(-output.probabilities, kind="stable")
    named = teacher.encode(replace(output, top_k=len(order)))["labels"]
    found = [""] * len(order)
    for place, one in zip(order, named, strict=True):
        found[int(place)] = one["label"]
    return found


@torch.no_grad()
def fresh_norms(network: nn.Module, values: Sequence[bytes]) -> None:
    """Let batch norms take their statistics from these pictures: what was pruned changed them."""
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    for some in slices(values, _BATCH):
        network(pixels(some))
    for norm in norms:
        norm.eval()


def pixels(values: Sequence[bytes]) -> Tensor:
    """N x 3 x 224 x 224, as the handler `resnet50` prepares them; decoded each time, as a thousand
    would take 600 MB."""
    handler = ResNet50()
    planes = [handler.decode(one, {}).planes for one in values]
    return torch.from_numpy(np.stack([one for one in planes if one is not None]))


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler, of each row."""
    real = wanted.clamp_min(_LEAST)
    return (real * (real.log() - F.log_softmax(logits, dim=1))).sum(1)

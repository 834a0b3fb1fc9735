"""Lessons for students of embedding models of BERT's shape."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.facts import FACTS
from worker.models.tensors import load_tensors
from worker.models.token_window import Tokens
from worker.models.weights import find_weights
from worker.tools.training.encoder import Encoder
from worker.tools.training.lesson import Ask, Lesson
from worker.tools.training.models import kept_tensors
from worker.tools.training.student import narrow_student, principal_axes, shallow_student
from worker.tools.training.texts import FeatureLearner, TextLearner, vectors_of

__all__ = ("copy_tokenizer", "text_lesson")

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_NOT_COPIED = frozenset((_CONFIG, FACTS, "origin.json", "model.safetensors.index.json"))


def text_lesson(
    spec: ModelSpec, items: tuple[Sequence[Tokens], Sequence[Tokens]], ask: Ask
) -> Lesson:
    """items: what is learnt from, and what judges. Raises ConfigurationError."""
    folder = find_weights(spec.weights)
    config: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    tensors = load_tensors(folder / _WEIGHTS)
    count, width = int(config["num_hidden_layers"]), int(config["hidden_size"])
    layers, hidden = ask.layers or max(1, count // 2), ask.hidden or width
    _check(layers, count, hidden, width, ask.loss)
    learnt, judged = ([one.ids for one in part] for part in items)
    teacher = Encoder(config, tensors).eval()
    targets, expected = vectors_of(teacher, learnt), vectors_of(teacher, judged)
    reduce = None
    if hidden == width:
        own, student, kept = shallow_student(config, tensors, layers, learnt, targets)
        notes = [f"{layers} of {count} layers; it began as the teacher's {_named(kept)}"]
    else:
        axes = principal_axes(targets, hidden)
        targets, expected = (F.normalize(one @ axes, dim=1) for one in (targets, expected))
        own, student = narrow_student(config, tensors, layers, hidden)
        notes = [
            f"{layers} layers of width {hidden}, from random ones; compared with the teacher's "
            f"vectors on their {hidden} principal axes, so it is an index of its own"
        ]
        reduce = _reduction(axes)
    learner = TextLearner(student, learnt, targets, judged, expected)
    if ask.loss == "features":
        learner = FeatureLearner(student, teacher, learnt, targets, judged, expected)

    def save(made: Path) -> None:
        copy_tokenizer(folder, made)
        (made / _CONFIG).write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
        kept_tensors(made / _WEIGHTS, student.state_dict())

    dimensions = (hidden,) if spec.dimensions else ()
    entry = spec.model_copy(update={"precision": "fp32", "dimensions": dimensions})
    return Lesson(learner, entry, [folder / _WEIGHTS], notes, save, reduce)


def _check(layers: int, count: int, hidden: int, width: int, loss: str) -> None:
    if layers > count:
        raise ConfigurationError(f"layers: the teacher has {count}; ask for fewer")
    if hidden > width:
        raise ConfigurationError(f"hidden: the teacher's width is {width}; ask for less")
    if (layers, hidden) == (count, width):
        raise ConfigurationError(
            f"a student of {count} layers and width {width} is as large as its teacher; ask for "
            "fewer --layers or a smaller --hidden"
        )
    if loss == "features" and hidden != width:
        raise ConfigurationError(
            "features can be matched only where the student is as wide as its teacher; leave "
            "--hidden out, or take --loss outputs"
        )


def _named(kept: Sequence[int]) -> str:
    return ", ".join(str(one + 1) for one in kept)


def _reduction(axes: Tensor) -> Any:
    def reduce(vector: list[float]) -> list[float]:
        found: list[float] = F.normalize(torch.tensor(vector) @ axes, dim=0).tolist()
        return found

    return reduce


def copy_tokenizer(source: Path, made: Path) -> None:
    """All small files of a model's folder but its configuration: tokenizer, lengths, labels."""
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".txt") and path.name not in _NOT_COPIED:
            shutil.copyfile(path, made / path.name)

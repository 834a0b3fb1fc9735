"""Image classification with EfficientNet-Lite0, whose real weights come in a package.

The package's file is a pickle of tensors, so the first load converts it, in a process with limits;
from then on its safetensors are mapped.
"""

from __future__ import annotations

import json
from pathlib import Path

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.converted import ready_folder
from worker.models.picture_classifier import Built, Framing, PictureClassifier
from worker.models.requirements import missing_package
from worker.models.tensors import load_tensors
from worker.models.weights import find_weights

__all__ = ("Classify",)

_LABELS = Path(__file__).with_name("data") / "imagenet_labels.txt"
"""ImageNet's classes in their order."""
_MODEL = "model.safetensors"


class Classify(PictureClassifier):
    """Classifies one picture a job; `params.top_k` says how many labels to return."""

    framing = Framing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

    def _build(self, spec: ModelSpec) -> Built:
        """From model.safetensors, or a .pth file of tensors.

        options: labels, a file of one label a line, for weights of other classes.
        """
        try:
            from worker.models.efficientnet import EfficientNetLite0
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        folder = ready_folder(find_weights(spec.weights), spec)
        if not (folder / _MODEL).is_file():
            raise ConfigurationError(f"models.{spec.name}.weights: {folder} has no {_MODEL}")
        try:
            network = EfficientNetLite0.of(load_tensors(folder / _MODEL))
        except (KeyError, RuntimeError) as exc:
            raise ConfigurationError(
                f"models.{spec.name}.weights: {folder}/{_MODEL} is no EfficientNet-Lite0: "
                f"{str(exc)[:200]}"
            ) from exc
        labels = _read_labels(spec, network.classes)
        return Built(network, labels, json.dumps({"id2label": labels}))


def _read_labels(spec: ModelSpec, classes: int) -> dict[int, str]:
    named = spec.options.get("labels")
    path = _LABELS if named is None else find_weights(str(named))
    try:
        found = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"models.{spec.name}.options.labels: {path}: {exc}") from exc
    if len(found) != classes:
        raise ConfigurationError(
            f"models.{spec.name}.options.labels: {path} has {len(found)} labels, and the network "
            f"has {classes} classes"
        )
    return dict(enumerate(found))

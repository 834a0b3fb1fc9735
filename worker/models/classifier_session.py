"""Image classification by a session: from normalised pixels to probabilities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.sessions import Session, check_ports, session_for

__all__ = ("ClassifierSession", "open_classifier", "read_labels", "softmax")

INPUTS, OUTPUTS = ("pixel_values",), ("logits",)


class ClassifierSession:
    """A graph from pixel_values to logits."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.backend = session.backend

    def probabilities(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """B x 3 x H x W to B x classes, each row's sum 1."""
        return softmax(self._session.run({"pixel_values": pixel_values})[0])


def open_classifier(spec: ModelSpec, graph: Path, device: str) -> ClassifierSession:
    """Open the graph of an image classifier. Raises ConfigurationError where it is another kind."""
    session = session_for(spec, graph, device)
    check_ports(spec.name, graph, session, INPUTS, OUTPUTS)
    return ClassifierSession(session)


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Over the last axis, in fp32."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    found: NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return found


def read_labels(model: str, folder: Path) -> Mapping[int, str]:
    """The labels by their index, from config.json's `id2label`."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["id2label"]
        return {int(index): str(label) for index, label in found.items()}
    except (OSError, ValueError, KeyError, AttributeError) as exc:
        raise ConfigurationError(
            f"models.{model}.weights: {path} must have the labels as `id2label` ({exc!r}); export "
            "the model again: lanefleet export"
        ) from exc

"""From the outputs of an ONNX file to a job's result: labels, an embedding, or the arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigurationError
from worker.models.base import Json
from worker.models.classifier_session import read_labels, softmax
from worker.models.graph.inputs import Item
from worker.models.graph.options import ResultOptions

__all__ = ("labels_of", "result_of")

Row = Mapping[str, NDArray[Any]]
"""One job's part of each output, by the output's name."""


def result_of(
    row: Row, item: Item, options: ResultOptions, output: str, labels: Mapping[int, str]
) -> Json:
    """What the job returns."""
    if options.kind == "labels":
        return {"labels": _best(row[output], item, options, labels)}
    if options.kind == "embedding":
        vector = _vector(row[output], options)
        found: dict[str, Json] = {"embedding": vector.round(8).tolist(), "dimensions": len(vector)}
        if item.ids:
            found |= {"tokens": len(item.ids), "truncated": item.truncated}
        return found
    return {name: array.tolist() for name, array in row.items()}


def _best(
    scores: NDArray[Any], item: Item, options: ResultOptions, labels: Mapping[int, str]
) -> Json:
    flat = scores.reshape(-1)
    probabilities = softmax(flat) if options.softmax else flat
    best = np.argsort(-probabilities, kind="stable")[: item.top_k]
    return [
        {
            "label": labels.get(int(index), str(index)),
            "score": round(float(probabilities[index]), 6),
        }
        for index in best
    ]


def _vector(found: NDArray[Any], options: ResultOptions) -> NDArray[np.float64]:
    vector = found.astype(np.float64)
    if vector.ndim > 1 and options.pool != "none":
        vector = vector.mean(axis=0) if options.pool == "mean" else vector[0]
    vector = vector.reshape(-1)
    return vector / max(float(np.linalg.norm(vector)), 1e-12) if options.normalize else vector


def labels_of(model: str, options: ResultOptions, folder: Path) -> Mapping[int, str]:
    """By their index; none where the catalog names none. Raises ConfigurationError."""
    if not isinstance(options.labels, str):
        return dict(enumerate(options.labels or ()))
    path = folder / options.labels
    if path.name == "config.json":
        return read_labels(model, folder)
    try:
        text = path.read_text(encoding="utf-8")
        lines = json.loads(text) if path.suffix == ".json" else text.splitlines()
        return {index: str(label) for index, label in enumerate(lines)}
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigurationError(
            f"models.{model}.options.result.labels: {path} must have a label a line, or be a JSON "
            f"list: {exc}"
        ) from exc

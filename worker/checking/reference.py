"""Which models have a reference, and what it is: the same model on torch in fp32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.facts import FACTS, content_digest
from worker.models.weights import located

__all__ = ("differs", "mode_of", "own_backend", "reference_of")

_GRAPHS = frozenset({"onnx", "text-detect"})
"""Built-in handlers whose weights are an ONNX file: their reference runs on ONNX Runtime."""


def own_backend(spec: ModelSpec) -> str:
    """What runs its reference."""
    return "onnx" if spec.handler in _GRAPHS else "torch"


def mode_of(spec: ModelSpec) -> str:
    """`onnx int8`, also where the catalog names no backend."""
    compiled = ":compiled" if spec.compiled else ""
    return f"{spec.backend or own_backend(spec)}{compiled} {spec.precision}"


def differs(spec: ModelSpec) -> bool:
    """Whether it is something else than its own reference, by backend or precision."""
    return spec.precision != "fp32" or spec.backend not in (None, own_backend(spec))


def reference_of(spec: ModelSpec, models: Mapping[str, ModelSpec]) -> ModelSpec:
    """The model that its results should be those of. Raises ConfigurationError.

    The catalog's `reference` names one of its models; else the weights that its own were made of,
    by what their folder says; else the same weights, on torch.
    """
    if spec.reference is not None:
        if spec.reference not in models:
            raise ConfigurationError(
                f"models.{spec.name}.reference: there is no model {spec.reference!r}"
            )
        return models[spec.reference]
    plain = {
        "precision": "fp32",
        "backend": None if spec.backend is None else own_backend(spec),
        "providers": (),
        "compiled": False,
    }
    if made_of := _made_of(spec, models):
        plain["weights"] = made_of
    elif spec.handler in _GRAPHS and spec.precision != "fp32":
        raise ConfigurationError(
            f"models.{spec.name}: its file is {spec.precision} itself; name the model of the "
            "catalog with the fp32 one: `reference:`"
        )
    return spec.model_copy(update=plain)


def _made_of(spec: ModelSpec, models: Mapping[str, ModelSpec]) -> str | None:
    """The `weights:` that a tool of ours made these of. Raises ConfigurationError."""
    folder = located(spec.weights)
    if folder is None or not (folder / FACTS).is_file():
        return None
    try:
        found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        source, digest = found.get("source"), found.get("weights")
    except (OSError, ValueError, AttributeError):
        return None  # the load says what is wrong with it
    if isinstance(source, str):
        return source
    for other in models.values():
        where = located(other.weights) if other.handler_path == spec.handler_path else None
        if where is not None and _is_source(where, digest):
            return other.weights
    raise ConfigurationError(
        f"models.{spec.name}: {folder} was made of weights that no model of the catalog has; add "
        "that model, or name the one to compare it with: `reference:`"
    )


def _is_source(where: Path, digest: object) -> bool:
    made = where.is_dir() and (where / FACTS).exists()
    return where.exists() and not made and content_digest(where) == digest

"""Which models have a reference, and what it is: the same model on torch in fp32."""

from __future__ import annotations

import json
from collections.abc import Mapping

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.weights import located

__all__ = ("differs", "mode_of", "reference_of")

_FACTS = "lanefleet.json"


def mode_of(spec: ModelSpec) -> str:
    """`onnx int8`; `torch` where the catalog names no backend."""
    return f"{spec.backend or 'torch'} {spec.precision}"


def differs(spec: ModelSpec) -> bool:
    """Whether it is something else than its own reference, by backend or precision."""
    return spec.precision != "fp32" or spec.backend not in (None, "torch")


def reference_of(spec: ModelSpec, models: Mapping[str, ModelSpec]) -> ModelSpec:
    """The model that its results should be those of. Raises ConfigurationError.

    The catalog's `reference` names one of its models; else what its folder of weights was made
    of; else the same weights on torch.
    """
    if spec.reference is not None:
        if spec.reference not in models:
            raise ConfigurationError(
                f"models.{spec.name}.reference: there is no model {spec.reference!r}"
            )
        return models[spec.reference]
    plain = {
        "precision": "fp32",
        "backend": None if spec.backend is None else "torch",
        "providers": (),
    }
    if made_of := _source_of(spec):
        plain["weights"] = made_of
    return spec.model_copy(update=plain)


def _source_of(spec: ModelSpec) -> str | None:
    """The `weights:` that a tool made these of, where they say so."""
    folder = located(spec.weights)
    if folder is None or not folder.is_dir():
        return None
    try:
        found = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        source = found.get("source") or found.get("reference")
    except (OSError, ValueError, AttributeError):
        return None
    return source if isinstance(source, str) else None

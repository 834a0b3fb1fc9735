"""Reads a safetensors file, and tells weights that no result can be trusted of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.catalog import ModelSpec
from common.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ("load_tensors", "refuse_nan")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """By name, mapped. Raises ConfigurationError where the file is damaged or cannot be read."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as exc:
        raise ConfigurationError(f"{exc}; install it with: pip install safetensors") from exc
    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise ConfigurationError(
            f"weights: {path} cannot be read ({exc}); it is damaged or was not copied whole, so "
            "get it again"
        ) from exc


def refuse_nan(network: nn.Module, spec: ModelSpec) -> None:
    """Raise ConfigurationError where one of its weights is NaN or infinite."""
    for name, tensor in network.named_parameters():
        if not tensor.isfinite().all():
            raise ConfigurationError(
                f"models.{spec.name}.weights: {spec.weights} has NaN or infinity in {name}, so its "
                "results mean nothing; name weights from before that, or train it again"
            )

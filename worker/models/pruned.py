"""Gives a network the shapes of a checkpoint whose channels were pruned.

`lanefleet prune` leaves layers of unlike widths, which no configuration of transformers tells. The
tensors tell them: each layer takes the shape that its weights have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ("PRUNED", "fit")

PRUNED = "pruned"
"""The key of config.json that says so."""


def fit(network: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Resize its layers, then load the tensors.

    source: named in errors. Raises ConfigurationError where they are not this network's.
    """
    import torch

    for name, module in network.named_modules():
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.shape == getattr(module, "weight", weight).shape:
            continue
        if isinstance(module, torch.nn.Conv2d):
            is_depthwise = module.groups == module.in_channels
            module.groups = weight.shape[0] if is_depthwise else module.groups
            module.out_channels = weight.shape[0]
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, torch.nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.num_features = weight.shape[0]
        else:
            continue
        _empty(module, weight.shape)
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as exc:
        said = " ".join(str(exc).split())[:300]
        raise ConfigurationError(f"{source} does not fit its config.json: {said}") from exc


def _empty(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Tensors of the new size, whose values come from the checkpoint."""
    import torch

    module.weight = torch.nn.Parameter(torch.empty(shape))
    for name, one in (*module.named_parameters(), *module.named_buffers()):
        if name == "weight" or one.dim() != 1:
            continue
        fresh = torch.zeros(shape[0], dtype=one.dtype)
        if name in dict(module.named_buffers()):
            module.register_buffer(name, fresh)
        else:
            module.register_parameter(name, torch.nn.Parameter(fresh))

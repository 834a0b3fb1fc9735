"""What a handler offers so that its network can be compiled: two methods beside the verbs.

`compilable()` returns the network as torch.export takes it; `use_compiled(run)` has `infer` call
`run` in its place. Both are optional, and no handler learns where compiled code comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from common.catalog import ModelSpec
from common.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ("COMPILED", "CanBeCompiled", "Compilable", "Run", "refuse_graphs")

COMPILED = "torch:compiled"
"""The backend that results name."""

Run = Callable[..., Any]
"""Called with the network's tensors; returns its output tensor, or a tuple of them."""


@dataclass(frozen=True, slots=True)
class Compilable:
    """A network with inputs to trace it with."""

    network: Module
    """Returns a tensor, or a tuple of them."""
    example: tuple[Tensor, ...]
    """Its positional inputs; with two rows or more, as one row is traced as a constant."""
    dynamic: tuple[dict[int, Any], ...]
    """For each input, the dimensions that vary: by number, a torch.export.Dim."""


@runtime_checkable
class CanBeCompiled(Protocol):
    """A loaded handler of which the network can be exchanged."""

    def compilable(self) -> Compilable:
        """The network that it runs now."""

    def use_compiled(self, run: Run) -> None:
        """Run this instead from now on; called after `load`, before anything else."""


def refuse_graphs(spec: ModelSpec) -> None:
    """Raise ConfigurationError for a catalog entry whose network is no torch network."""
    if spec.backend in ("onnx", "openvino"):
        raise ConfigurationError(
            f"models.{spec.name}.compiled: backend {spec.backend} compiles its graph by itself; "
            "take one of the two keys out"
        )

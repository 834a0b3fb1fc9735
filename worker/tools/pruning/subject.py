"""What is pruned, whatever kind of model it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from worker.models.base import Model
from worker.tools.training.loop import Learner

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ("InPair", "Subject", "parameters_of")


class Subject(Protocol):
    """A network that can be made smaller, taught again by what it was, and written."""

    handler: str
    """What loads it, as in the catalog."""

    @property
    def network(self) -> nn.Module:
        """As it is now."""

    def narrow(self, share: float) -> None:
        """Take this share of its parts away."""

    def learner(self) -> Learner:
        """Against the answers of the whole network; only where there are inputs."""

    def save(self, folder: Path) -> None:
        """As its handler loads it."""

    def state(self) -> dict[str, Tensor]:
        """All tensors, by name."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """As `state` gave them, whatever their shapes."""


@runtime_checkable
class InPair(Protocol):
    """A subject that is compared as a network, since no handler is known to load what is left."""

    def pair(self) -> tuple[Model, Model]:
        """The whole one and what is left."""


def parameters_of(network: nn.Module) -> int:
    """Those that are not zero."""
    return sum(int(one.count_nonzero()) for one in network.parameters())

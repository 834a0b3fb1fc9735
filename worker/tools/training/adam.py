"""Adam, as small as it is needed here.

torch's own imports its compiler (seconds) and keeps its state by parameter, not by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ("Adam",)

_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8
_KINDS = ("mean", "square")


class Adam:
    """Moves named parameters by their gradients; its state is named tensors."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._state = {
            kind: {name: torch.zeros_like(one) for name, one in parameters.items()}
            for kind in _KINDS
        }
        self._steps = 0

    @torch.no_grad()
    def step(self, rate: float, most: float = 1.0) -> None:
        """Once, by the gradients there are, which are let go; their norm is cut to `most`."""
        moved = {name: one for name, one in self._parameters.items() if one.grad is not None}
        gradients = [one.grad for one in moved.values() if one.grad is not None]
        if not gradients:
            return
        norm = math.sqrt(sum(float(one.square().sum()) for one in gradients))
        self._steps += 1
        first, second = 1 - _FIRST**self._steps, 1 - _SECOND**self._steps
        for (name, one), gradient in zip(moved.items(), gradients, strict=True):
            gradient.mul_(min(1.0, most / max(norm, _EPSILON)))
            mean, square = (self._state[kind][name] for kind in _KINDS)
            mean.lerp_(gradient, 1 - _FIRST)
            square.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
            one.addcdiv_(
                mean, square.sqrt().div_(math.sqrt(second)).add_(_EPSILON), value=-rate / first
            )
            one.grad = None

    def state(self) -> dict[str, Tensor]:
        """All that it remembers."""
        found = {
            f"{kind}.{name}": one for kind in _KINDS for name, one in self._state[kind].items()
        }
        return {**found, "steps": torch.tensor(self._steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """As `state` gave it. Raises KeyError."""
        self._steps = int(state["steps"])
        for kind in _KINDS:
            for name, one in self._state[kind].items():
                one.copy_(state[f"{kind}.{name}"])

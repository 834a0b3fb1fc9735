"""Teaches a network what int8 will do to it, before `lanefleet quantize` does that.

Weights and inputs of its layers are rounded as int8 rounds them in each step, while gradients pass
as if they were not (a straight-through estimate); what it is to answer is what the network said
in fp32. So the weights move to where rounding costs least, and no labels are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.base import Model
from worker.tools.pruning.opening import inputs_of, open_subject
from worker.tools.report import Progress
from worker.tools.training.loop import Judgement, Plan, train

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ("as_in_int8", "plan_of", "teach_int8")

_RATE = 2e-5
"""Small: the weights are where they should be but for the rounding."""
_MOST_INPUTS = 2_000
_INT8, _UINT8 = 127, 255


def teach_int8(
    spec: ModelSpec, whole: Model, data: str, folder: Path, plan: Plan, progress: Progress
) -> tuple[Judgement, Judgement]:
    """Write a folder of fp32 weights, as the handler loads them, that int8 harms less.

    Returns how held-out inputs were answered with rounding, before and after. Raises
    ConfigurationError.
    """
    inputs = inputs_of(data, spec, whole, _MOST_INPUTS)
    if spec.handler not in ("minilm", "resnet50"):
        raise ConfigurationError(
            f"{spec.name}: weights of the handlers minilm and resnet50 can be taught int8, not "
            f"those of {spec.handler}"
        )
    subject = open_subject(spec, whole, inputs, "taught int8")
    with as_in_int8(subject.network):
        outcome = train(subject.learner(), plan, None, progress)
    began = outcome.history[0]
    subject.save(folder)
    return Judgement(began.mean, began.least), outcome.best


def plan_of(minutes: float) -> Plan:
    """Of a fine-tuning: CPU minutes."""
    judge = max(2.0, minutes * 3)
    return Plan(minutes=minutes, learning_rate=_RATE, batch=16, judge_seconds=judge)


@contextmanager
def as_in_int8(network: nn.Module) -> Iterator[None]:
    """Inside, its linear and convolution layers round their weights and inputs to 8 bits."""
    from torch import nn

    layers = [one for one in network.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    for layer in layers:
        layer.__dict__["forward"] = _rounded(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _rounded(layer: Any) -> Any:
    from torch import nn
    from torch.nn import functional as F

    def linear(inputs: Tensor) -> Tensor:
        return F.linear(_inputs(inputs), _weights(layer.weight), layer.bias)

    def convolution(inputs: Tensor) -> Tensor:
        found: Tensor = layer._conv_forward(_inputs(inputs), _weights(layer.weight), layer.bias)
        return found

    return linear if isinstance(layer, nn.Linear) else convolution


def _weights(weight: Tensor) -> Tensor:
    """Symmetric, a scale for each output channel."""
    own = weight.detach()
    scale = own.abs().flatten(1).amax(1).clamp_min(1e-12) / _INT8
    scale = scale.view(-1, *(1 for _ in own.shape[1:]))
    return weight + ((own / scale).round() * scale - own)


def _inputs(inputs: Tensor) -> Tensor:
    """From the least to the most of the batch, zero among them, as dynamic ranges are."""
    own = inputs.detach()
    low, high = own.min().clamp_max(0.0), own.max().clamp_min(0.0)
    scale = (high - low).clamp_min(1e-12) / _UINT8
    zero = (-low / scale).round()
    return inputs + (((own / scale + zero).round().clamp(0, _UINT8) - zero) * scale - own)

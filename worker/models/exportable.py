"""What a handler offers so that `lanefleet export` can write its network as an ONNX file.

The export loads the handler in torch, on a CPU, in fp32, and asks it for the parts. Graphs have
agreed names, so that whatever runs one knows it: text embeddings take `input_ids` and
`attention_mask` (int64, B x L) and give `vectors` (B x H, unit length); image classifiers take
`pixel_values` (float32, B x 3 x H x W) and give `logits` (B x C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from worker.models.base import Model

if TYPE_CHECKING:
    import torch

__all__ = ("Export", "Exportable", "Feeds")

Feeds = Mapping[str, NDArray[Any]]
"""Arrays by the names of the inputs."""


@dataclass(frozen=True, slots=True)
class Export:
    """A network with its inputs and outputs named, and what is needed to check it."""

    network: torch.nn.Module
    """In evaluation mode; its forward takes the inputs in order and gives a tensor, or a tuple."""
    inputs: Mapping[str, Mapping[int, str]]
    """Each input's axes that vary, by number: `{"pixel_values": {0: "batch"}}`."""
    outputs: Sequence[str]
    """A name must not be one inside the network: `vectors`, not `embedding`."""
    random: Callable[[int], Feeds]
    """Made-up inputs of this many items, of other lengths for other numbers of them."""
    feeds: Callable[[Sequence[Any]], Feeds]
    """Items, as `decode` returns them, as inputs."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts to write beside the graph, which the weights' folder has not: `config.json`."""


@runtime_checkable
class Exportable(Model, Protocol):
    """A handler that can be exported."""

    def export(self) -> Export:
        """Its parts; called once, after `load`, on a CPU."""

"""The parts of an export for the two usual kinds of network: classifiers and text embedders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.models.embedding_session import padded
from worker.models.exportable import Export, Feeds

__all__ = ("classifier", "embedder", "padded")

_SEED = 18
_MOST_RANDOM_TOKENS = 48


class _Logits(nn.Module):
    """A network whose output is a tensor, or has one as `logits`, as a plain module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        found = self._network(pixel_values)
        logits: Tensor = found if isinstance(found, Tensor) else found.logits
        return logits


def classifier(
    network: nn.Module,
    shape: tuple[int, int, int],
    pixels: Callable[[Sequence[Any]], NDArray[Any]],
    files: Mapping[str, str] | None = None,
) -> Export:
    """A network from `pixel_values` to `logits`.

    shape: of one picture as the network takes it, without the batch. pixels: items, as `decode`
    returns them, as one float32 array. files: texts to write beside the graph.
    """

    def random(count: int) -> Feeds:
        made = np.random.default_rng(_SEED + count).standard_normal((count, *shape), np.float32)
        return {"pixel_values": made}

    return Export(
        network=_Logits(network),
        inputs={"pixel_values": {0: "batch"}},
        outputs=("logits",),
        random=random,
        feeds=lambda items: {"pixel_values": np.ascontiguousarray(pixels(items), np.float32)},
        files=files or {},
    )


def embedder(network: nn.Module, vocabulary: int, most_tokens: int) -> Export:
    """A network from `input_ids` and `attention_mask` to `vectors`; items have `ids`."""

    def random(count: int) -> Feeds:
        dice = np.random.default_rng(_SEED + count)
        most = min(most_tokens, _MOST_RANDOM_TOKENS - count)
        lengths = dice.integers(1, most + 1, count)
        return padded([dice.integers(0, vocabulary, length).tolist() for length in lengths])

    axes = {0: "batch", 1: "length"}
    return Export(
        network=network,
        inputs={"input_ids": axes, "attention_mask": axes},
        outputs=("vectors",),
        random=random,
        feeds=lambda items: padded([item.ids for item in items]),
    )

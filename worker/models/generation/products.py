"""Products of states with weights: in oneDNN's packed order on a CPU, in torch's own elsewhere.

A step multiplies each weight with a few rows, and torch's usual product of that shape reads the
weight in an order that is not the processor's. Packed once at load it took 33 ms instead of 82 for
all products of SmolLM2 with 16 rows, and 19 instead of 45 with 4 (float32, one Zen 3 core). Rows
have the same bits whatever their number, too: with torch's own only from four rows on.

What packs is private to torch, whose version is pinned: it is tried on a small product first, and
where it is missing or wrong torch's own does the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ("PLAIN_MULTIPLE", "Product", "can_pack", "pack")

PLAIN_MULTIPLE = 4
"""Rows of which torch's own product has the same bits in any company."""
_EXPECTED_ROWS = 16


class Product:
    """states x transposed weight + bias."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, packed: bool) -> None:
        self._weight = pack(weight) if packed else weight
        self._bias = bias
        self._packed = packed

    def __call__(self, states: Tensor) -> Tensor:
        """N x inputs -> N x outputs."""
        if not self._packed:
            return F.linear(states, self._weight, self._bias)
        return _multiply(states, self._weight, self._bias)


def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Whether weights can be packed here, and a small product comes out right."""
    library: Any = torch.backends.mkldnn
    if device != "cpu" or dtype != torch.float32 or not library.is_available():
        return False
    states, weight, bias = torch.ones(3, 8), torch.arange(128.0).view(16, 8), torch.ones(16)
    try:
        found = _multiply(states, pack(weight), bias)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, F.linear(states, weight, bias))


def pack(weight: Tensor) -> Tensor:
    """A copy in oneDNN's order, which only `_multiply` reads."""
    operations: Any = torch.ops.mkldnn
    packed: Tensor = operations._reorder_linear_weight(weight, _EXPECTED_ROWS)
    return packed


def _multiply(states: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    operations: Any = torch.ops.mkldnn
    found: Tensor = operations._linear_pointwise(states, packed, bias, "none", [], "")
    return found

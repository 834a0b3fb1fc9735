"""BERT's encoder as a module of padded sentences: what `lanefleet export` traces.

The packed encoder of `bert.py` decides by lengths in Python, which no graph can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.models.bert import Affine, Layer, Named

__all__ = ("PaddedBert",)


class PaddedBert(nn.Module):
    """input_ids and attention_mask (B x L) to vectors: B x H, mean-pooled, of unit length."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        named = Named(tensors)
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._words = nn.Parameter(named["embeddings.word_embeddings.weight"], False)
        places = (
            named["embeddings.position_embeddings.weight"]
            + named["embeddings.token_type_embeddings.weight"][0]
        )
        self._places = nn.Parameter(places, False)
        self._norm = _as_norm(named.affine("embeddings.LayerNorm"), self._epsilon)
        self._layers = nn.ModuleList(
            _Layer(named.layer(f"encoder.layer.{number}."), self._heads, self._epsilon)
            for number in range(int(config["num_hidden_layers"]))
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The network."""
        length = input_ids.shape[1]
        states = self._norm(F.embedding(input_ids, self._words) + self._places[:length])
        mask = attention_mask[:, None, None, :].to(torch.bool)
        for layer in self._layers:
            states = layer(states, mask)
        kept = attention_mask[:, :, None].to(states.dtype)
        means = (states * kept).sum(1) / kept.sum(1).clamp(min=1.0)
        return F.normalize(means, dim=1)


class _Layer(nn.Module):
    def __init__(self, layer: Layer, heads: int, epsilon: float) -> None:
        super().__init__()
        self._heads = heads
        self._qkv, self._attended = _as_linear(layer.qkv), _as_linear(layer.attended)
        self._widen, self._narrow = _as_linear(layer.widen), _as_linear(layer.narrow)
        self._attended_norm = _as_norm(layer.attended_norm, epsilon)
        self._norm = _as_norm(layer.norm, epsilon)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        sentences, length, width = states.shape
        heads = self._qkv(states).view(sentences, length, 3, self._heads, width // self._heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        found = found.transpose(1, 2).reshape(sentences, length, width)
        states = self._attended_norm(self._attended(found) + states)
        normed: Tensor = self._norm(self._narrow(F.gelu(self._widen(states))) + states)
        return normed


def _as_linear(affine: Affine) -> nn.Linear:
    wide, narrow = affine.weight.shape
    linear = nn.Linear(narrow, wide, device="meta")
    linear.weight = nn.Parameter(affine.weight, False)
    linear.bias = nn.Parameter(affine.bias, False)
    return linear


def _as_norm(affine: Affine, epsilon: float) -> nn.LayerNorm:
    norm = nn.LayerNorm(affine.weight.shape, eps=epsilon, device="meta")
    norm.weight = nn.Parameter(affine.weight, False)
    norm.bias = nn.Parameter(affine.bias, False)
    return norm

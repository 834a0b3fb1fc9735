"""A BERT encoder that can be trained and exported: padded, with a mask, any widths.

The handler's own (`worker/models/bert.py`) packs its tokens and keeps no modules. Parameters have
the names that BertModel gives them, and take their shapes from the checkpoint: layers may differ in
heads and in width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ("Encoder", "bare_names", "with_layers")

_PREFIX = "bert."


class Encoder(nn.Module):
    """Token ids and mask, sentences x longest, to one unit vector a sentence."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Raises KeyError for a tensor that the checkpoint lacks."""
        super().__init__()
        named = bare_names(tensors)
        epsilon = float(config.get("layer_norm_eps", 1e-12))
        head_size = int(config["hidden_size"]) // int(config["num_attention_heads"])
        self.embeddings = _Embeddings(named, epsilon)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(
            _Layer(named, f"encoder.layer.{number}.", head_size, epsilon)
            for number in range(int(config["num_hidden_layers"]))
        )

    @property
    def layers(self) -> nn.ModuleList:
        """In their order."""
        found = self.encoder.layer
        assert isinstance(found, nn.ModuleList)
        return found

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors of unit length: sentences x width."""
        return self.pooled(self.states(input_ids, attention_mask)[-1], attention_mask)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """What the embeddings and each layer give: sentences x longest x width each."""
        found = [self.embeddings(input_ids)]
        seen = attention_mask[:, None, None, :].to(torch.bool)
        for layer in self.layers:
            found.append(layer(found[-1], seen))
        return found

    @staticmethod
    def pooled(states: Tensor, attention_mask: Tensor) -> Tensor:
        """The mean of what is no padding, brought to unit length."""
        real = attention_mask[:, :, None].to(states.dtype)
        return F.normalize((states * real).sum(1) / real.sum(1).clamp_min(1.0), dim=1)


class _Embeddings(nn.Module):
    def __init__(self, named: Mapping[str, Tensor], epsilon: float) -> None:
        super().__init__()
        prefix = "embeddings."
        self.word_embeddings = _table(named[f"{prefix}word_embeddings.weight"])
        self.position_embeddings = _table(named[f"{prefix}position_embeddings.weight"])
        self.token_type_embeddings = _table(named[f"{prefix}token_type_embeddings.weight"])
        self.LayerNorm = _norm(named, f"{prefix}LayerNorm", epsilon)

    def forward(self, input_ids: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: input_ids.shape[1]]
        words = self.word_embeddings(input_ids)
        found: Tensor = self.LayerNorm(words + places + self.token_type_embeddings.weight[0])
        return found


class _Layer(nn.Module):
    def __init__(
        self, named: Mapping[str, Tensor], prefix: str, head_size: int, epsilon: float
    ) -> None:
        super().__init__()
        self.head_size = head_size
        own = f"{prefix}attention."
        self.attention = nn.Module()
        self.attention.self = nn.Module()
        for part in ("query", "key", "value"):
            setattr(self.attention.self, part, _linear(named, f"{own}self.{part}"))
        self.attention.output = _ends(named, f"{own}output.", epsilon)
        self.intermediate = nn.Module()
        self.intermediate.dense = _linear(named, f"{prefix}intermediate.dense")
        self.output = _ends(named, f"{prefix}output.", epsilon)

    def forward(self, states: Tensor, seen: Tensor) -> Tensor:
        own: Any = self.attention
        parts = (own.self.query, own.self.key, own.self.value)
        query, key, value = (
            part(states).unflatten(-1, (-1, self.head_size)).transpose(1, 2) for part in parts
        )
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        found = own.output.dense(found.transpose(1, 2).flatten(2))
        states = own.output.LayerNorm(found + states)
        wide: Any = self.intermediate
        narrow: Any = self.output
        after: Tensor = narrow.LayerNorm(narrow.dense(F.gelu(wide.dense(states))) + states)
        return after


def bare_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As BertModel names them, without the prefix of a checkpoint that was saved with a head."""
    return {name.removeprefix(_PREFIX): one for name, one in tensors.items()}


def with_layers(tensors: Mapping[str, Tensor], kept: list[int]) -> dict[str, Tensor]:
    """The checkpoint with these layers only, numbered anew."""
    found = {}
    for name, one in bare_names(tensors).items():
        head, _, rest = name.partition("encoder.layer.")
        if head or not rest:
            found[name] = one
            continue
        number, _, rest = rest.partition(".")
        if int(number) in kept:
            found[f"encoder.layer.{kept.index(int(number))}.{rest}"] = one
    return found


def _ends(named: Mapping[str, Tensor], prefix: str, epsilon: float) -> nn.Module:
    found = nn.Module()
    found.dense = _linear(named, f"{prefix}dense")
    found.LayerNorm = _norm(named, f"{prefix}LayerNorm", epsilon)
    return found


def _table(weight: Tensor) -> nn.Embedding:
    return nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight.float().clone())


def _linear(named: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight, bias = named[f"{name}.weight"], named[f"{name}.bias"]
    found = nn.Linear(weight.shape[1], weight.shape[0])
    _fill(found, weight, bias)
    return found


def _norm(named: Mapping[str, Tensor], name: str, epsilon: float) -> nn.LayerNorm:
    weight, bias = named[f"{name}.weight"], named[f"{name}.bias"]
    found = nn.LayerNorm(weight.shape[0], eps=epsilon)
    _fill(found, weight, bias)
    return found


def _fill(module: nn.Module, weight: Tensor, bias: Tensor) -> None:
    module.weight = nn.Parameter(weight.float().clone())
    module.bias = nn.Parameter(bias.float().clone())

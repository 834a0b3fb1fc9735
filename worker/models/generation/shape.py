"""What config.json says of a decoder-only network, as flags of one implementation.

GPT-2 and the Llama family (Llama, SmolLM, Mistral, Qwen2, Qwen3) differ in few places. Whatever
else a configuration asks for is refused: text of a network that is nearly right looks right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigurationError

__all__ = ("FAMILIES", "Rope", "Shape", "read_shape")

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
"""`model_type` of the networks that run here."""
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: the base, and how long contexts are squeezed into them."""

    theta: float
    scaling: Mapping[str, Any]

    def frequencies(self, width: int) -> list[float]:
        """One for each pair of a head's numbers."""
        plain = [self.theta ** (-2 * pair / width) for pair in range(width // 2)]
        if self.scaling.get("rope_type") == "linear":
            return [one / float(self.scaling["factor"]) for one in plain]
        if self.scaling.get("rope_type") == "llama3":
            return [self._as_llama3(one) for one in plain]
        return plain

    def _as_llama3(self, frequency: float) -> float:
        """Slow ones are divided, fast ones kept, and those between blended."""
        low, high = (float(self.scaling[f"{end}_freq_factor"]) for end in ("low", "high"))
        before = int(self.scaling["original_max_position_embeddings"])
        turns = before * frequency / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        return frequency * (kept + (1 - kept) / float(self.scaling["factor"]))


@dataclass(frozen=True, slots=True)
class Shape:
    """One network."""

    gpt2: bool
    """Learned positions, biased layer norms and transposed weights; else the Llama family."""
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    max_positions: int
    norm_eps: float
    activation: str
    rope: Rope | None
    window: int | None
    """Tokens that each looks back on; None is all."""


def read_shape(config: Mapping[str, Any], model: str) -> Shape:
    """Raises ConfigurationError for what does not run here, naming what does run it."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise _refused(model, f"a network of the type {kind!r}")
    try:
        return _gpt2(config, model) if kind == "gpt2" else _llama(config, model)
    except KeyError as exc:
        raise ConfigurationError(f"models.{model}.weights: config.json lacks {exc}") from exc


def _gpt2(config: Mapping[str, Any], model: str) -> Shape:
    for flag in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if config.get(flag):
            raise _refused(model, flag)
    if not config.get("scale_attn_weights", True):
        raise _refused(model, "attention that is not scaled")
    width, heads = config["n_embd"], config["n_head"]
    return Shape(
        gpt2=True,
        layers=config["n_layer"],
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        vocabulary=config["vocab_size"],
        max_positions=config["n_positions"],
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        activation=_activation(config.get("activation_function", "gelu_new"), model),
        rope=None,
        window=None,
    )


def _llama(config: Mapping[str, Any], model: str) -> Shape:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    return Shape(
        gpt2=False,
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or width // heads,
        vocabulary=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        activation=_activation(config.get("hidden_act", "silu"), model),
        rope=_rope(config, model),
        window=_window(config, model),
    )


def _rope(config: Mapping[str, Any], model: str) -> Rope:
    """Of the key of today, or of the two before it."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind not in ("default", "linear", "llama3"):
        raise _refused(model, f"rotary positions of the type {kind!r}")
    if found.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise _refused(model, "heads that are rotated in part")
    theta = found.get("rope_theta") or config.get("rope_theta") or 10_000.0
    if kind == "llama3" and "original_max_position_embeddings" not in found:
        found["original_max_position_embeddings"] = config["max_position_embeddings"]
    return Rope(float(theta), {**found, "rope_type": kind})


def _window(config: Mapping[str, Any], model: str) -> int | None:
    """Of all layers alike; Qwen names a window even where it uses none."""
    window: int | None = config.get("sliding_window")
    if not window or config["model_type"] == "llama":
        return None
    if config["model_type"] == "mistral":
        return window
    if not config.get("use_sliding_window"):
        return None
    if set(config.get("layer_types") or ()) != {"sliding_attention"}:
        raise _refused(model, "a sliding window in some layers only")
    return window


def _activation(name: str, model: str) -> str:
    if name not in _ACTIVATIONS:
        raise _refused(model, f"the activation {name!r}")
    return _ACTIVATIONS[name]


def _refused(model: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"models.{model}.weights: config.json asks for {what}, which the embedded decoder does not "
        f"run; it runs {', '.join(FAMILIES)}. Serve this model with `handler: openai-server`"
    )

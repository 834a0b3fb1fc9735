"""A gguf's network in the names and the layout of a folder of safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.models.generation.conversion.errors import NotConverted
from worker.models.generation.conversion.gguf import Gguf
from worker.models.generation.conversion.writer import Source

__all__ = ("config_of", "sources_of")

_FAMILIES = ("llama", "qwen2", "qwen3")
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"^blk\.(\d+)\.(\w+)\.(weight|bias)$")


def config_of(gguf: Gguf) -> dict[str, Any]:
    """What config.json says. Raises NotConverted for a network that does not run here."""
    facts = gguf.facts
    family = facts.get("general.architecture")
    if family not in _FAMILIES:
        raise NotConverted(
            f"this is a gguf of the architecture {family!r}; {', '.join(_FAMILIES)} are converted. "
            "Other models can be served with `handler: openai-server`"
        )
    if "rope_freqs.weight" in gguf.tensors:
        raise NotConverted(
            "this gguf stretches its context by a table of frequencies, which is not converted; "
            "take the model's safetensors"
        )
    try:
        return _config(family, facts, gguf)
    except KeyError as exc:
        raise NotConverted(f"the gguf's header lacks {exc}") from exc


def _config(family: str, facts: Mapping[str, Any], gguf: Gguf) -> dict[str, Any]:
    heads = facts[f"{family}.attention.head_count"]
    width = facts[f"{family}.embedding_length"]
    config = {
        "model_type": family,
        "vocab_size": gguf.tensors["token_embd.weight"].shape[0],
        "hidden_size": width,
        "intermediate_size": facts[f"{family}.feed_forward_length"],
        "num_hidden_layers": facts[f"{family}.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts.get(f"{family}.attention.head_count_kv", heads),
        "head_dim": facts.get(f"{family}.attention.key_length", width // heads),
        "max_position_embeddings": facts[f"{family}.context_length"],
        "rms_norm_eps": facts[f"{family}.attention.layer_norm_rms_epsilon"],
        "rope_theta": facts.get(f"{family}.rope.freq_base", 10_000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "bos_token_id": facts.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": facts.get("tokenizer.ggml.eos_token_id"),
    }
    kind = facts.get(f"{family}.rope.scaling.type", "none")
    if kind == "linear":
        factor = facts[f"{family}.rope.scaling.factor"]
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif kind != "none":
        raise NotConverted(f"this gguf stretches its context by {kind!r}, which does not run here")
    return config


def sources_of(gguf: Gguf, config: Mapping[str, Any]) -> Iterator[Source]:
    """Every tensor under its new name. Raises NotConverted for one that is unknown."""
    for name, info in gguf.tensors.items():
        new = _new_name(name)
        heads = 0
        if config["model_type"] == "llama" and new.endswith("q_proj.weight"):
            heads = config["num_attention_heads"]
        elif config["model_type"] == "llama" and new.endswith("k_proj.weight"):
            heads = config["num_key_value_heads"]
        yield Source(new, info.shape, _reading(gguf, name, heads))


def _reading(gguf: Gguf, name: str, heads: int) -> Any:
    return lambda: _halves_apart(gguf.read(name), heads) if heads else gguf.read(name)


def _halves_apart(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp rotates neighbours, others the two halves of a head: its rows back in order."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


def _new_name(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    found = _LAYER.match(name)
    if found is None or found[2] not in _OF_LAYER:
        raise NotConverted(f"the gguf has a tensor {name[:80]!r}, which no network here has")
    return f"model.layers.{found[1]}.{_OF_LAYER[found[2]]}.{found[3]}"

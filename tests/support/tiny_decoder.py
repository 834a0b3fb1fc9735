"""Folders of tiny random networks that the decoder loads, with a tokenizer of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

END, BEGIN, TURN = 256, 257, 258
"""Special tokens; those below are bytes, and some pairs of letters come behind."""
_PAIRS = ("t h", "th e", "i n", "a n", "Ġ t", "Ġ a", "Ã ©")
VOCABULARY = 259 + len(_PAIRS)
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


def byte_characters() -> list[str]:
    """A character for each byte, as GPT-2 has them."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    found, others = [], 0
    for byte in range(256):
        if byte in shown:
            found.append(chr(byte))
        else:
            found.append(chr(0x100 + others))
            others += 1
    return found


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: bytes, three special tokens, a few merges."""
    pieces = [*byte_characters(), "<|end|>", "<|begin|>", "<|turn|>"]
    pieces += [pair.replace(" ", "") for pair in _PAIRS]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": token, "content": pieces[token], "special": True, **flags}
            for token in (END, BEGIN, TURN)
        ],
        "pre_tokenizer": {**levels, "use_regex": True},
        "decoder": {**levels, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {piece: token for token, piece in enumerate(pieces)},
            "merges": [pair.split(" ") for pair in _PAIRS],
        },
    }


def write_decoder(
    folder: Path, config: Mapping[str, Any], seed: int = 0, scale: float = 0.3, ends: bool = False
) -> Path:
    """A folder with random weights. ends: whether the end's token ends a text."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    maker = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=maker) * scale + (1 if "norm" in name else 0)
        for name, shape in shapes_of(config).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    kept = {**config, "eos_token_id": END if ends else None, "bos_token_id": None}
    (folder / "config.json").write_text(json.dumps(kept))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    named = {"bos_token": "<|begin|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def shapes_of(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a network."""
    return _gpt2(config) if config["model_type"] == "gpt2" else _llama(config)


def _gpt2(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width = config["n_embd"]
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config["vocab_size"], width),
        "transformer.wpe.weight": (config["n_positions"], width),
    }
    norms = ["transformer.ln_f"]
    for layer in range(config["n_layer"]):
        own = f"transformer.h.{layer}."
        norms += [f"{own}ln_1", f"{own}ln_2"]
        for name, ins, outs in (
            ("attn.c_attn", 1, 3),
            ("attn.c_proj", 1, 1),
            ("mlp.c_fc", 1, 4),
            ("mlp.c_proj", 4, 1),
        ):
            found[f"{own}{name}.weight"] = (ins * width, outs * width)
            found[f"{own}{name}.bias"] = (outs * width,)
    for norm in norms:
        found[f"{norm}.weight"] = found[f"{norm}.bias"] = (width,)
    return found


def _llama(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, wide = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    all_heads = head * config["num_attention_heads"]
    kv_heads = head * config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    if not config.get("tie_word_embeddings"):
        found["lm_head.weight"] = (config["vocab_size"], width)
    biased = config["model_type"] == "qwen2" or config.get("attention_bias")
    for layer in range(config["num_hidden_layers"]):
        own = f"model.layers.{layer}."
        found[f"{own}input_layernorm.weight"] = (width,)
        found[f"{own}post_attention_layernorm.weight"] = (width,)
        if config["model_type"] == "qwen3":
            found[f"{own}self_attn.q_norm.weight"] = (head,)
            found[f"{own}self_attn.k_norm.weight"] = (head,)
        for name, size in (("q", all_heads), ("k", kv_heads), ("v", kv_heads)):
            found[f"{own}self_attn.{name}_proj.weight"] = (size, width)
            if biased:
                found[f"{own}self_attn.{name}_proj.bias"] = (size,)
        found[f"{own}self_attn.o_proj.weight"] = (width, all_heads)
        if config.get("attention_bias"):
            found[f"{own}self_attn.o_proj.bias"] = (width,)
        found[f"{own}mlp.gate_proj.weight"] = found[f"{own}mlp.up_proj.weight"] = (wide, width)
        found[f"{own}mlp.down_proj.weight"] = (width, wide)
    return found

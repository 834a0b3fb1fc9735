"""Writes gguf files for tests: facts, and tensors as float32 or in blocks."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.tiny_decoder import tokenizer

F32, Q8_0 = 0, 8


def write_gguf(
    path: Path, facts: Mapping[str, Any], tensors: Mapping[str, tuple[int, np.ndarray]]
) -> Path:
    """tensors: by name the type and float32 numbers, which are packed as that type."""
    header, packed = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(facts))], []
    for name, value in facts.items():
        header.append(_text(name) + _value(value))
    at = 0
    for name, (kind, numbers) in tensors.items():
        content = numbers.astype("<f4").tobytes() if kind == F32 else _q8_0(numbers)
        content += b"\0" * (-len(content) % 32)
        inner_first = numbers.shape[::-1]
        header.append(
            _text(name)
            + struct.pack(f"<I{len(inner_first)}QIQ", len(inner_first), *inner_first, kind, at)
        )
        packed.append(content)
        at += len(content)
    start = b"".join(header)
    path.write_bytes(start + b"\0" * (-len(start) % 32) + b"".join(packed))
    return path


def llama_gguf(path: Path, folder: Path, config: Mapping[str, Any], kind: int = F32) -> Path:
    """The folder of a tiny Llama as a gguf; matrices are packed as `kind`."""
    from safetensors.numpy import load_file

    tensors: dict[str, tuple[int, np.ndarray]] = {}
    for name, numbers in load_file(folder / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            part = "attention" if "q_proj" in name else "key_value"
            heads = config[f"num_{part}_heads"]
            halves = numbers.reshape(heads, 2, -1, numbers.shape[1])
            numbers = halves.swapaxes(1, 2).reshape(numbers.shape)
        tensors[_ggml_name(name)] = (kind if numbers.ndim == 2 else F32, numbers)
    return write_gguf(path, {**_network_facts(config), **_vocabulary_facts()}, tensors)


def _network_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.context_length": config["max_position_embeddings"],
    }


def _vocabulary_facts() -> dict[str, Any]:
    written = tokenizer()
    pieces = list(written["model"]["vocab"])
    special = {one["id"] for one in written["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in written["model"]["merges"]],
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in range(len(pieces))],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }


_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def _ggml_name(name: str) -> str:
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers.", "blk.")


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)


def _q8_0(numbers: np.ndarray) -> bytes:
    blocks = numbers.reshape(-1, 32)
    scales = (np.abs(blocks).max(1, keepdims=True) / 127).astype("<f2")
    whole = np.round(blocks / scales.astype(np.float32)).astype(np.int8)
    return np.concatenate([scales.view(np.uint8), whole.view(np.uint8)], axis=1).tobytes()

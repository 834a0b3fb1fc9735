"""A gguf's vocabulary as tokenizer.json, with the chat template and the special tokens.

Byte-level vocabularies (`tokenizer.ggml.model: gpt2`) are made anew: their pieces and merges are
in the file, and how a text is split first is named by `tokenizer.ggml.pre`. A vocabulary of another
kind, or split in an unknown way, takes the model's own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.models.generation.conversion.errors import NotConverted

__all__ = ("tokenizer_config_of", "tokenizer_of")

_CONTROL, _USER = 3, 4
"""Types of tokens: special ones, and others that are never taken apart."""

_GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_BYTES = {**_GPT2_SPLIT, "use_regex": False}


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": False,
            },
            _BYTES,
        ],
    }


def _words(digits: str) -> str:
    """How the models of today split a text; they differ in how many digits stay together."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_SPLITS: Mapping[str, dict[str, Any]] = {
    "gpt-2": {**_GPT2_SPLIT, "use_regex": True},
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {**_GPT2_SPLIT, "use_regex": True},
        ],
    },
    "llama-bpe": _split(_words(r"\p{N}{1,3}")),
    "qwen2": _split(_words(r"\p{N}")),
}


def tokenizer_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The value of tokenizer.json. Raises NotConverted."""
    kind, split = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or split not in _SPLITS:
        raise NotConverted(
            f"the gguf's vocabulary ({kind!r}, split as {split!r}) is not converted; give the "
            "model's own tokenizer.json with --tokenizer"
        )
    pieces = facts["tokenizer.ggml.tokens"]
    types = facts.get("tokenizer.ggml.token_type") or [1] * len(pieces)
    added = [
        {
            "id": token,
            "content": pieces[token],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind_of == _CONTROL,
        }
        for token, kind_of in enumerate(types)
        if kind_of in (_CONTROL, _USER)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": _SPLITS[split],
        "post_processor": _post_processor(facts, pieces),
        "decoder": {**_GPT2_SPLIT, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split == "llama-bpe",
            "vocab": {piece: token for token, piece in enumerate(pieces)},
            "merges": [merge.split(" ", 1) for merge in facts["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The value of tokenizer_config.json."""
    pieces = facts.get("tokenizer.ggml.tokens") or []
    found: dict[str, Any] = {}
    for name in ("bos", "eos", "unknown", "padding"):
        token = facts.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(token, int) and 0 <= token < len(pieces):
            short = {"unknown": "unk", "padding": "pad"}.get(name, name)
            found[f"{short}_token"] = pieces[token]
    if template := facts.get("tokenizer.chat_template"):
        found["chat_template"] = template
    return found


def _post_processor(facts: Mapping[str, Any], pieces: list[str]) -> dict[str, Any]:
    """Puts the beginning's token in front where the file says so."""
    token = facts.get("tokenizer.ggml.bos_token_id")
    if not facts.get("tokenizer.ggml.add_bos_token") or token is None:
        return {**_GPT2_SPLIT, "use_regex": True}
    piece = pieces[token]
    begin = {"SpecialToken": {"id": piece, "type_id": 0}}
    text = [{"Sequence": {"id": which, "type_id": 0}} for which in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": [begin, text[0]],
        "pair": [begin, *text],
        "special_tokens": {piece: {"id": piece, "ids": [token], "tokens": [piece]}},
    }

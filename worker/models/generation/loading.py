"""Reads a model's folder: its network, its special tokens, and how texts end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.catalog import ModelSpec
from common.errors import ConfigurationError
from worker.models.generation.batch import Batch, Limits
from worker.models.generation.cache import Cache
from worker.models.generation.chat_template import ChatTemplate, read_template
from worker.models.generation.checkpoint import open_checkpoint
from worker.models.generation.grammar import Grammars
from worker.models.generation.network import Network
from worker.models.generation.options import DecoderOptions
from worker.models.generation.prompts import PromptReader
from worker.models.generation.shape import Shape, read_shape
from worker.models.generation.tokens import Vocabulary, read_vocabulary

__all__ = ("Loaded", "load_folder")

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


class Loaded:
    """What a decoder runs on."""

    def __init__(self, batch: Batch, prompts: PromptReader, ends: tuple[int, ...]) -> None:
        self.batch = batch
        self.prompts = prompts
        self.ends = ends


def load_folder(folder: Path, spec: ModelSpec, options: DecoderOptions, device: str) -> Loaded:
    """Raises ConfigurationError for what is missing or does not run here."""
    config = _read(folder / "config.json", spec)
    shape = read_shape(config, spec.name)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise ConfigurationError(f"models.{spec.name}.weights: {folder} has no tokenizer.json")
    vocabulary = read_vocabulary(tokenizer, spec.name)
    names = _special_names(folder)
    ends = _ends(folder, config, vocabulary, names)
    context = min(options.max_context, shape.max_positions)
    batch = _batch(folder, shape, context, spec, options, ends, device)
    begin = vocabulary.find(names["bos_token"]) if "bos_token" in names else None
    template = read_template(folder)
    prompts = PromptReader(
        model=spec.name,
        vocabulary=vocabulary,
        outputs=shape.vocabulary,
        context=context,
        begin=next(iter(ends), None) if begin is None else begin,
        names=names,
        template=None
        if template is None
        else ChatTemplate(template, options.template_seconds, options.template_memory_mb),
        grammars=Grammars(tokenizer, shape.vocabulary, next(iter(ends), None)),
    )
    return Loaded(batch, prompts, ends)


def _batch(
    folder: Path,
    shape: Shape,
    context: int,
    spec: ModelSpec,
    options: DecoderOptions,
    ends: tuple[int, ...],
    device: str,
) -> Batch:
    dtype = _DTYPES[spec.precision]
    with open_checkpoint(folder, spec.name, device, dtype) as weights:
        network = Network(shape, weights, context, device, packed=options.packed)
    cache = Cache(network, options.slots, context, device, exact=options.exact)
    limits = Limits(
        options.slots, context, options.prefill_chunk, options.exact, options.reuse_prefixes
    )
    return Batch(cache, limits, ends, device)


def _ends(
    folder: Path, config: Mapping[str, Any], vocabulary: Vocabulary, names: Mapping[str, str]
) -> tuple[int, ...]:
    """The tokens that end a text, as the model's makers list them."""
    found = _read_if_there(folder / "generation_config.json").get("eos_token_id")
    if found is None:
        found = config.get("eos_token_id")
    ends = [found] if isinstance(found, int) else list(found or ())
    named = vocabulary.find(names["eos_token"]) if "eos_token" in names else None
    if named is not None:
        ends.append(named)
    return tuple(dict.fromkeys(ends))


def _special_names(folder: Path) -> dict[str, str]:
    config = _read_if_there(folder / "tokenizer_config.json")
    found = {}
    for name in _NAMED:
        value = config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found


def _read(path: Path, spec: ModelSpec) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigurationError(f"models.{spec.name}.weights: there is no {path}")
    return _read_if_there(path)


def _read_if_there(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}

"""Folders of tiny random models that minilm and resnet50 load, and a catalog of them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORDS = tuple(
    f"{first}{second}" for first in ("red", "old", "big", "dry") for second in ("fox", "sea", "hat")
)


def write_encoder(folder: Path, layers: int = 3, hidden: int = 32, seed: int = 0) -> Path:
    """A BERT with a vocabulary of a dozen words."""
    import torch

    from worker.tools.training.models import kept_tensors

    folder.mkdir(parents=True)
    config = {
        "model_type": "bert",
        "hidden_size": hidden,
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "vocab_size": len(WORDS) + 3,
    }
    source = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)

    sizes = {"attention.self.query": (hidden, hidden), "attention.self.key": (hidden, hidden)}
    sizes |= {"attention.self.value": (hidden, hidden), "attention.output.dense": (hidden, hidden)}
    sizes |= {"intermediate.dense": (2 * hidden, hidden), "output.dense": (hidden, 2 * hidden)}
    tensors = {
        "embeddings.word_embeddings.weight": made(len(WORDS) + 3, hidden) * 3,
        "embeddings.position_embeddings.weight": made(64, hidden),
        "embeddings.token_type_embeddings.weight": made(2, hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        for name, (rows, columns) in sizes.items():
            tensors[f"{prefix}{name}.weight"] = made(rows, columns)
            tensors[f"{prefix}{name}.bias"] = made(rows)
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"] = torch.ones(hidden)
        tensors[f"{name}.bias"] = torch.zeros(hidden)
    kept_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder / "tokenizer.json")
    return folder


def _write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {one: number for number, one in enumerate(("[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(path))


def write_texts(path: Path, count: int = 80) -> Path:
    """A text a line."""
    source = random.Random(3)
    lines = (" ".join(source.choices(WORDS, k=source.randint(2, 9))) for _ in range(count))
    path.write_text("".join(f"{one}\n" for one in lines))
    return path


def write_resnet(folder: Path, seed: int = 0) -> Path:
    """Of five classes, with batch norms that have seen noise."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24], depths=[2, 2], layer_type="basic", num_labels=5
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ResNetForImageClassification(config)
        network(torch.randn(4, 3, 64, 64))
    network.eval().save_pretrained(folder)
    return folder


def write_pictures(folder: Path, count: int = 12) -> Path:
    """A PNG each."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    source = np.random.default_rng(5)
    for number in range(count):
        small = Image.fromarray(source.integers(0, 255, (4, 4, 3), np.uint8))
        buffer = io.BytesIO()
        small.resize((48, 48), Image.Resampling.BICUBIC).save(buffer, "PNG")
        (folder / f"{number}.png").write_bytes(buffer.getvalue())
    return folder


def write_shop(folder: Path, layers: int = 3, **more: Mapping[str, Any]) -> Path:
    """Models, inputs and a catalog of them, with further entries; `bert` and `resnet` are the
    weights, `texts.txt` and `pictures` the inputs.
    """
    write_encoder(folder / "bert", layers)
    write_resnet(folder / "resnet")
    write_texts(folder / "texts.txt")
    write_pictures(folder / "pictures")
    entries = {
        "tiny": {"handler": "minilm", "input": "text", "weights": str(folder / "bert")},
        "eyes": {"handler": "resnet50", "input": "image", "weights": str(folder / "resnet")},
        "echo": {"handler": "echo", "input": "json"},
    }
    write_catalog(folder / "models.yaml", {**entries, **more})
    return folder


def write_catalog(path: Path, models: Mapping[str, Mapping[str, Any]]) -> Path:
    """deploy/models.yaml with these entries."""
    path.write_text(json.dumps({"models": models}))  # which is YAML too
    return path

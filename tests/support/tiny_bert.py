"""A random BERT of a few thousand numbers, as a weights' folder."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "far")
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 16,
}


def write_bert(folder: Path) -> Path:
    """config.json, tokenizer.json and model.safetensors."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # type: ignore[arg-type]  # its stub
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]  # its stub
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # type: ignore[assignment]  # its stub
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    dice = torch.Generator().manual_seed(7)
    shapes = {
        "embeddings.word_embeddings.weight": (16, 16),
        "embeddings.position_embeddings.weight": (64, 16),
        "embeddings.token_type_embeddings.weight": (2, 16),
        "embeddings.LayerNorm.weight": (16,),
        "embeddings.LayerNorm.bias": (16,),
    }
    for layer in ("encoder.layer.0.",):
        for name, wide, narrow in (
            ("attention.self.query", 16, 16),
            ("attention.self.key", 16, 16),
            ("attention.self.value", 16, 16),
            ("attention.output.dense", 16, 16),
            ("intermediate.dense", 32, 16),
            ("output.dense", 16, 32),
        ):
            shapes[f"{layer}{name}.weight"] = (wide, narrow)
            shapes[f"{layer}{name}.bias"] = (wide,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{layer}{name}.weight"] = shapes[f"{layer}{name}.bias"] = (16,)
    tensors = {name: torch.randn(shape, generator=dice) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder

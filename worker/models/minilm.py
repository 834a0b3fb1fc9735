"""Sentence embeddings with the MiniLM family: mean-pooled, unit length.

The tokenizer is used without transformers' wrapper, and padding is chosen
per forward pass rather than per batch: on a CPU, time follows padded tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput
from worker.models.base import Json
from worker.models.params import refuse_unknown
from worker.models.requirements import missing_package
from worker.models.weights import find_weights, quiet_loading

if TYPE_CHECKING:
    import torch

__all__ = ("MiniLM",)

DEFAULT_MAX_TOKENS = 256
CHARACTERS_PER_TOKEN = 256
"""Text beyond max_tokens times this is not even tokenised, so that a book costs no more."""
PASS_TOKENS_CPU = 64
"""What one more forward pass costs, in padded tokens; measured at 40-70 on one Xeon core."""
PASS_TOKENS_GPU = 16_384
"""Unmeasured: enough to keep a batch whole, since a GPU waits for launches, not for tokens."""

TokenIds = list[int]


@dataclass(frozen=True, slots=True)
class Embedding:
    """One sentence's vector of unit length and its number of tokens."""

    vector: NDArray[np.float32]
    tokens: int


class MiniLM:
    """Embeds one text a job."""

    def __init__(self) -> None:
        self._tokenizer: Any = None
        self._network: Any = None
        self._device = "cpu"
        self._max_tokens = DEFAULT_MAX_TOKENS
        self._pad_id = 0
        self._pass_tokens = PASS_TOKENS_CPU

    def load(self, spec: ModelSpec, device: str) -> None:
        """Read tokenizer.json, config.json and model.safetensors from the weights' folder."""
        try:
            from tokenizers import Tokenizer
            from transformers import BertModel
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        folder = find_weights(spec.weights)
        config = _read_config(folder, spec.name)
        self._pad_id = int(config.get("pad_token_id") or 0)
        self._max_tokens = min(_sentence_length(folder), int(config["max_position_embeddings"]))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._max_tokens)
        quiet_loading()
        self._network = BertModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            local_files_only=True,
            use_safetensors=True,
            dtype=_dtype(spec.precision),
        )
        self._network.to(device).eval()
        self._device = device
        self._pass_tokens = PASS_TOKENS_CPU if device == "cpu" else PASS_TOKENS_GPU

    def decode(self, value: Any, params: Mapping[str, Any]) -> TokenIds:
        """Token ids of one text, cut to the model's length; an empty text is legal."""
        if not isinstance(value, str):
            raise InvalidInput("expected one text (a string) per job")
        refuse_unknown(params, ())
        text = value[: self._max_tokens * CHARACTERS_PER_TOKEN]
        try:
            text.encode()  # The tokenizer calls half a surrogate pair "not a str".
        except UnicodeEncodeError as exc:
            raise InvalidInput(f"the text is not valid Unicode: {exc.reason}") from exc
        ids: TokenIds = self._tokenizer.encode(text).ids
        return ids

    def cost(self, item: TokenIds) -> float:
        """Its tokens."""
        return float(len(item))

    def infer(self, items: Sequence[TokenIds]) -> Sequence[Embedding]:
        """Embed a batch in as many passes as its lengths deserve."""
        embeddings: dict[int, Embedding] = {}
        for group in split_by_length([len(item) for item in items], self._pass_tokens):
            vectors = self._embed([items[index] for index in group])
            for index, vector in zip(group, vectors, strict=True):
                embeddings[index] = Embedding(vector, len(items[index]))
        return [embeddings[index] for index in range(len(items))]

    def encode(self, output: Embedding) -> Json:
        """Eight decimals: all that fp32 holds here, in half the bytes of a full double."""
        vector = output.vector.astype(np.float64).round(8).tolist()
        return {"embedding": vector, "dimensions": len(vector), "tokens": output.tokens}

    def _embed(self, group: Sequence[TokenIds]) -> NDArray[np.float32]:
        import torch

        ids, mask = _pad(group, self._pad_id)
        with torch.inference_mode():
            attention = torch.from_numpy(mask).to(self._device)
            hidden = self._network(
                input_ids=torch.from_numpy(ids).to(self._device), attention_mask=attention
            ).last_hidden_state
            vectors: NDArray[np.float32] = _mean_pool(hidden, attention).cpu().numpy()
        return vectors


def split_by_length(lengths: Sequence[int], pass_tokens: int) -> Iterator[list[int]]:
    """Group indexes of like lengths, longest first.

    A group ends where padding it further would waste more tokens than
    another forward pass costs.
    """
    group: list[int] = []
    wasted = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        wasted += lengths[group[0]] - lengths[index] if group else 0
        if group and wasted > pass_tokens:
            yield group
            group, wasted = [], 0
        group.append(index)
    if group:
        yield group


def _pad(group: Sequence[TokenIds], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shape = (len(group), max(len(ids) for ids in group))
    padded = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, ids in enumerate(group):
        padded[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    return padded, mask


def _mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import normalize

    # Summed in fp32 whatever the network ran in: bf16 keeps only 8 bits.
    weights = mask.unsqueeze(-1).float()
    return normalize((hidden.float() * weights).sum(1) / weights.sum(1), dim=1)


def _dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _read_config(folder: Path, model: str) -> dict[str, Any]:
    needed = ("config.json", "model.safetensors", "tokenizer.json")
    lacking = [name for name in needed if not (folder / name).is_file()]
    if lacking:
        raise ConfigurationError(f"models.{model}.weights: {folder} has no {', '.join(lacking)}")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "bert":
        raise ConfigurationError(
            f"models.{model}.weights: {folder} holds a {config.get('model_type')} model; "
            "this handler runs BERT-shaped ones such as all-MiniLM-L6-v2"
        )
    return config


def _sentence_length(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    if not path.is_file():
        return DEFAULT_MAX_TOKENS
    return int(json.loads(path.read_text(encoding="utf-8"))["max_seq_length"])

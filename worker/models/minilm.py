"""Sentence embeddings with the MiniLM family: mean-pooled, unit length.

Without transformers: its tokenizer wrapper and its padding BertModel cost
more than they bring here (see `bert.py`), and importing it takes seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from common.catalog import ModelSpec
from common.errors import ConfigurationError, InvalidInput
from worker.devices.torch_import import deferring
from worker.models.base import Json
from worker.models.compiled import COMPILED, Compilable, Run
from worker.models.embedding_session import EmbeddingSession, open_embedding
from worker.models.exportable import Export
from worker.models.facts import GRAPH
from worker.models.params import refuse_unknown
from worker.models.prepared import PREPARED
from worker.models.ready_graph import ready_graph, runs_graphs
from worker.models.requirements import missing_package
from worker.models.tensors import load_tensors
from worker.models.token_window import MAX_CHARACTERS, Tokens, TokenWindow
from worker.models.weights import find_weights
from worker.transfer import Later, Transfer, open_transfer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from worker.models.bert import Bert

__all__ = ("MiniLM",)

MODEL = "model.safetensors"
DEFAULT_MAX_TOKENS = 256
_ID_BYTES = 36
"""A number of a list, and its place there."""
EXAMPLE = (
    "A sentence of about twenty words, as long as most that come, is what this model embeds best."
)


@dataclass(frozen=True, slots=True)
class Embedding:
    """One sentence's vector of unit length, and what of it the model looked at."""

    vector: NDArray[np.float32]
    tokens: int
    truncated: bool


class MiniLM:
    """Embeds one text a job."""

    pads = False
    """Tokens are packed, see `bert.py`."""

    def __init__(self) -> None:
        self._window: TokenWindow | None = None
        self._network: Bert | None = None
        self._compiled: Run | None = None
        self._session: EmbeddingSession | None = None
        self.backend = "torch"
        self._name, self._folder = "", Path()
        self._kind: tuple[bytes, int, int] = (b"", 0, 0)
        """All that determines a text's tokens."""
        self._transfer = Transfer("cpu")

    def load(self, spec: ModelSpec, device: str) -> None:
        """Read tokenizer.json, config.json and the network from the weights' folder.

        backend: torch takes model.safetensors; onnx and openvino model.onnx, exported first where
        it is not there.

        options: max_characters.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        graph = ready_graph(spec) if runs_graphs(spec) else None
        self._name = spec.name
        self._folder = folder = find_weights(spec.weights) if graph is None else graph.parent
        config = _read_config(folder, spec.name, MODEL if graph is None else graph.name)
        max_tokens = min(_sentence_length(folder), int(config["max_position_embeddings"]))
        text = (folder / "tokenizer.json").read_bytes()
        tokenizer = Tokenizer.from_buffer(text)
        max_characters = int(spec.options.get("max_characters", MAX_CHARACTERS))
        self._window = TokenWindow(tokenizer, max_tokens, max_characters)
        self._kind = (hashlib.sha256(text).digest(), max_tokens, max_characters)
        PREPARED.join(self, self._kind)
        if graph is None:
            self._load_network(spec, device, config)
        else:
            self._session = open_embedding(spec, graph, device, max_tokens)
            self.backend = self._session.backend

    def _load_network(self, spec: ModelSpec, device: str, config: Mapping[str, Any]) -> None:
        try:
            with deferring():
                from worker.models.bert import Bert
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        dtype = _dtype(spec.precision)
        tensors = {
            name: tensor.to(device=device, dtype=dtype)
            for name, tensor in load_tensors(self._folder / MODEL).items()
        }
        self._transfer = open_transfer(device)
        try:
            self._network = Bert(config, tensors, one_run=device != "cpu")
        except KeyError as exc:
            raise ConfigurationError(
                f"models.{spec.name}.weights: {self._folder}/{MODEL} lacks {exc}"
            ) from exc

    def decode(self, value: Any, params: Mapping[str, Any]) -> Tokens:
        """Token ids of one text, cut to the model's length; an empty text is legal."""
        assert self._window is not None
        if not isinstance(value, str):
            raise InvalidInput("expected one text (a string) per job")
        refuse_unknown(params, ())
        try:
            value.encode()  # The tokenizer calls half a surrogate pair "not a str".
        except UnicodeEncodeError as exc:
            raise InvalidInput(f"the text is not valid Unicode: {exc.reason}") from exc
        window = self._window
        return PREPARED.get(self._kind, value, lambda: window.tokens(value), _bytes_of)

    def cost(self, item: Tokens) -> float:
        """Its tokens."""
        return float(len(item.ids))

    def infer(self, items: Sequence[Tokens]) -> Sequence[Embedding] | Later:
        """Embed a batch; sentences of unlike length cost no more together than apart."""
        if self._session is not None:
            return _embeddings(self._session.vectors([item.ids for item in items]), items)
        import torch

        with torch.inference_mode():
            return self._transfer.get(
                self._vectors([item.ids for item in items]),
                lambda vectors: _embeddings(vectors, items),
            )

    def _vectors(self, sentences: Sequence[Sequence[int]]) -> Tensor:
        import torch

        if self._compiled is not None:
            from worker.models.embedding_session import padded

            return cast(
                "Tensor", self._compiled(*map(torch.from_numpy, padded(sentences).values()))
            )
        assert self._network is not None
        return torch.nn.functional.normalize(self._network.mean_states(sentences), dim=1)

    def encode(self, output: Embedding) -> Json:
        """Eight decimals: all that fp32 holds here, in half the bytes of a full double."""
        vector = output.vector.astype(np.float64).round(8).tolist()
        return {
            "embedding": vector,
            "dimensions": len(vector),
            "tokens": output.tokens,
            "truncated": output.truncated,
        }

    def example(self) -> str:
        """A sentence, to warm up with."""
        return EXAMPLE

    def compilable(self) -> Compilable:
        """Padded tokens to vectors."""
        import torch

        export = self.export()
        example = tuple(torch.from_numpy(one) for one in export.random(2).values())
        batch = torch.export.Dim("batch", min=1)
        length = torch.export.Dim("length", min=1, max=self._window.max_tokens)  # type: ignore[union-attr]  # as loaded
        return Compilable(export.network, example, ({0: batch, 1: length},) * 2)

    def use_compiled(self, run: Run) -> None:
        """Run this on padded tokens."""
        self._compiled, self._network, self.backend = run, None, COMPILED

    def export(self) -> Export:
        """Its network, from padded tokens to vectors."""
        from worker.models.bert_padded import PaddedBert
        from worker.models.exported_network import embedder

        assert self._window is not None
        config = _read_config(self._folder, self._name)
        network = PaddedBert(config, load_tensors(self._folder / MODEL))
        return embedder(network, int(config["vocab_size"]), self._window.max_tokens)


def _embeddings(vectors: Iterable[NDArray[np.float32]], items: Sequence[Tokens]) -> list[Embedding]:
    return [
        Embedding(vector, len(item.ids), item.truncated)
        for vector, item in zip(vectors, items, strict=True)
    ]


def _bytes_of(tokens: Tokens) -> int:
    return _ID_BYTES * len(tokens.ids)


def _dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _read_config(folder: Path, model: str, network: str = MODEL) -> dict[str, Any]:
    needed = ("config.json", network, "tokenizer.json")
    lacking = [name for name in needed if not (folder / name).is_file()]
    if lacking:
        remedy = "; set backend: onnx or openvino" if (folder / GRAPH).is_file() else ""
        raise ConfigurationError(
            f"models.{model}.weights: {folder} has no {', '.join(lacking)}{remedy}"
        )
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "bert":
        raise ConfigurationError(
            f"models.{model}.weights: {folder} holds a {config.get('model_type')} model; "
            "this handler runs BERT-shaped ones such as all-MiniLM-L6-v2"
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise ConfigurationError(
            f"models.{model}.weights: {folder} wants the activation {config['hidden_act']}; "
            "this handler knows gelu only"
        )
    return config


def _sentence_length(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    if not path.is_file():
        return DEFAULT_MAX_TOKENS
    return int(json.loads(path.read_text(encoding="utf-8"))["max_seq_length"])

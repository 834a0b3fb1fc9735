"""An old pytorch_model.bin, whole or in shards, as the tensors of a safetensors file.

The format is a pickle, which can run code when it is read; torch reads it with `weights_only`,
which builds tensors and nothing else. That this takes a bounded time and memory is seen to by the
process that it runs in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worker.models.generation.conversion.errors import NotConverted
from worker.models.generation.conversion.writer import Source

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ("config_of", "copied_files", "sources_of")

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".num_batches_tracked")
"""Ends of names of what no network here reads, but old files hold."""


def config_of(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise NotConverted(f"{folder}/config.json cannot be read: {exc}") from exc
    if not isinstance(found, dict):
        raise NotConverted(f"{folder}/config.json is no JSON object")
    return found


def copied_files(folder: Path) -> list[Path]:
    """What goes along as it is."""
    return [path for name in _COPIED if (path := folder / name).is_file()]


def sources_of(path: Path) -> Iterator[Source]:
    """Of a .bin file, or of all that a folder has."""
    for file in _files(path):
        for name, tensor in _loaded(file).items():
            if not name.endswith(_BUFFERS):
                yield Source(name, tuple(tensor.shape), _reading(tensor))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    index = path / "pytorch_model.bin.index.json"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [path / Path(name).name for name in sorted(set(names))]
    return [path / "pytorch_model.bin"]


def _loaded(file: Path) -> dict[str, Tensor]:
    import torch

    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=_can_be_mapped(file))
    except Exception as exc:
        raise NotConverted(
            f"{file} cannot be read as tensors and nothing else ({type(exc).__name__}): it is "
            "damaged, or would have to run code, which is not done"
        ) from exc
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise NotConverted(f"{file} does not hold tensors by name")
    return found


def _can_be_mapped(file: Path) -> bool:
    """The format before torch 1.6 is no zip, and cannot."""
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"


def _reading(tensor: Tensor) -> Callable[[], NDArray[np.float32]]:
    def read() -> NDArray[np.float32]:
        numbers: NDArray[np.float32] = tensor.float().contiguous().numpy()
        return numbers

    return read

"""The tensors of a folder: model.safetensors, or the shards that an index names.

Files are mapped, not read: what is used as it lies there shares its pages with every other
process that serves the model. Only what has to be joined or converted becomes this process' own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.errors import ConfigurationError

__all__ = ("Checkpoint", "open_checkpoint")

_INDEX = "model.safetensors.index.json"
_PREFIXES = ("", "model.", "transformer.")
"""Before every name, where the checkpoint was saved with a head."""


class Checkpoint:
    """Tensors by name, on the device and of the type that they are computed in."""

    def __init__(self, files: dict[str, Any], device: str, dtype: torch.dtype) -> None:
        self._files = files
        self._device = device
        self.dtype = dtype

    def find(self, name: str) -> Tensor | None:
        """The tensor of this name, with or without the usual prefixes."""
        for prefix in _PREFIXES:
            if (file := self._files.get(prefix + name)) is not None:
                tensor: Tensor = file.get_tensor(prefix + name)
                return tensor.to(device=self._device, dtype=self.dtype)
        return None

    def __getitem__(self, name: str) -> Tensor:
        """Raises KeyError."""
        if (tensor := self.find(name)) is None:
            raise KeyError(name)
        return tensor


@contextmanager
def open_checkpoint(
    folder: Path, model: str, device: str, dtype: torch.dtype
) -> Iterator[Checkpoint]:
    """Raises ConfigurationError where a file is missing or damaged."""
    with ExitStack() as stack:
        try:
            opened = [
                stack.enter_context(safe_open(path, framework="pt")) for path in _files_of(folder)
            ]
            files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118
            yield Checkpoint(files, device, dtype)
        except (OSError, SafetensorError, json.JSONDecodeError) as exc:
            raise ConfigurationError(f"models.{model}.weights: {folder}: {exc}") from exc
        except KeyError as exc:
            raise ConfigurationError(
                f"models.{model}.weights: the safetensors in {folder} lack {exc}"
            ) from exc


def _files_of(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.is_file():
        return [folder / "model.safetensors"]
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    # By their last part: an index has no business outside of its folder.
    return [folder / Path(name).name for name in sorted(set(names))]

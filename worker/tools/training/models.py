"""Models as the tools need them: loaded by their own handler, asked for results, compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.catalog import ModelSpec, load_catalog
from common.errors import ConfigurationError
from common.settings import Settings
from worker.devices.torch_import import finish_torch
from worker.models import load_handler
from worker.models.base import Json, Model
from worker.models.samples import read_samples
from worker.tools.pace import compare, outputs_of
from worker.tools.report import Progress
from worker.tools.training.loop import slices

if TYPE_CHECKING:
    from torch import Tensor

__all__ = (
    "answers",
    "bytes_in",
    "digest_of",
    "kept_tensors",
    "opened",
    "read_inputs",
    "spec_of",
    "speed",
    "weight_files",
)

_BATCH = 32
_TIMED_ITEMS = 16


def spec_of(settings: Settings, name: str) -> ModelSpec:
    """The catalog's entry. Raises UnknownModel."""
    return load_catalog(settings.catalog)[name]


def opened(spec: ModelSpec, folder: Path | None = None) -> Model:
    """The handler, loaded on the CPU; from this folder in place of the catalog's weights."""
    handler = load_handler(spec)
    handler.load(spec.model_copy(update={"weights": str(folder)}) if folder else spec, "cpu")
    finish_torch()  # training and export need what serving leaves out
    return handler


def read_inputs(path: str, spec: ModelSpec, most: int, least: int = 2) -> list[Any]:
    """At most so many inputs of a folder or file. Raises ConfigurationError."""
    found = read_samples(Path(path), spec.input, most)
    if len(found) < least:
        raise ConfigurationError(
            f"samples: {path} has {len(found)} {spec.input} input; some are learnt from and the "
            f"others judge, so put at least {least} in it"
        )
    return found


def answers(handler: Model, items: Sequence[Any]) -> list[Json]:
    """Results as clients get them, in order."""
    return [
        handler.encode(output)
        for some in slices(items, _BATCH)
        for output in outputs_of(handler, some)
    ]


def speed(before: Model, after: Model, items: tuple[Sequence[Any], Sequence[Any]],
          progress: Progress, seconds: float) -> float:  # fmt: skip
    """Items a second of the second against the first, in turns and with one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, second = ([*one, *one * _TIMED_ITEMS][:_TIMED_ITEMS] for one in map(list, items))
        return compare(
            lambda: outputs_of(before, first),
            lambda: outputs_of(after, second),
            progress,
            seconds=seconds,
        ).ratio
    finally:
        torch.set_num_threads(threads)


def bytes_in(folder: Path) -> int:
    """Of the weights in it."""
    kinds = (".safetensors", ".onnx", ".data")
    return sum(one.stat().st_size for one in folder.iterdir() if one.suffix in kinds)


def weight_files(found: Path) -> list[Path]:
    """The file, or those of the folder that hold weights."""
    return [found] if found.is_file() else sorted(found.glob("*.safetensors"))


def kept_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Raises OSError, as where the disk is full."""
    from safetensors.torch import save

    content = save({name: one.detach().contiguous().clone() for name, one in tensors.items()})
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def digest_of(parts: Iterable[object]) -> str:
    """Of texts, bytes and the content of files; tells one training from another."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        else:
            content = part if isinstance(part, bytes) else repr(part).encode()
        whole.update(hashlib.sha256(content).digest())
    return whole.hexdigest()[:32]

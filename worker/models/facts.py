"""`lanefleet.json`: what a folder of weights that our tools made says of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError

__all__ = ("FACTS", "GRAPH", "Facts", "content_digest", "read_facts", "write_facts")

FACTS, GRAPH = "lanefleet.json", "model.onnx"
_FORMAT = 1
_NAMES = ("handler", "backend", "precision", "weights")
_CHUNK_BYTES = 1 << 20
_DIGEST_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Facts:
    """How the weights of a folder were made."""

    handler: str
    """As in the catalog: a built-in's name, or `module:Class`."""
    backend: str
    precision: str
    weights: str
    """The digest of the weights that they were made of."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def read_facts(folder: Path) -> Facts | None:
    """What the folder says of itself; None where it says nothing.

    Raises ConfigurationError for a file that is broken.
    """
    path = folder / FACTS
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        handler, backend, precision, weights = (str(found[name]) for name in _NAMES)
        inputs, outputs = (tuple(found.get(name, ())) for name in ("inputs", "outputs"))
        return Facts(handler, backend, precision, weights, inputs, outputs)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigurationError(
            f"weights: {path} is not what `lanefleet export` writes ({exc!r}); export them again"
        ) from exc


def write_facts(folder: Path, facts: Facts, **more: Any) -> None:
    """more: what a tool keeps besides, under names of its own."""
    text = json.dumps({"format": _FORMAT, **asdict(facts), **more}, indent=2)
    (folder / FACTS).write_text(f"{text}\n", encoding="utf-8")


def content_digest(weights: Path) -> str:
    """A digest of a file, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    for path in _files(weights):
        name = path.relative_to(weights).as_posix() if path != weights else ""
        digest.update(f"{len(name)} {name} {path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def _files(weights: Path) -> Iterator[Path]:
    if weights.is_file():
        yield weights
    else:
        yield from sorted(
            one for one in weights.rglob("*") if one.is_file() and one.suffix not in (".pyc",)
        )

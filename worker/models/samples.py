"""Inputs on which a model is checked: the catalog's `samples`, read and split.

A folder holds an input a file; a `.txt` file has a text a line, a `.jsonl` file a JSON value a
line. Those that tune something (calibration, a search) are never those that judge it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError

__all__ = ("read_samples", "split")

_TEXTS, _VALUES = ".txt", ".jsonl"


def read_samples(path: Path, kind: str, most: int = 1000) -> list[Any]:
    """The inputs, as `decode` takes them: str, bytes or JSON values.

    kind: the model's `input`. Raises ConfigurationError where there is none or one is broken.
    """
    if not path.exists():
        raise ConfigurationError(f"samples: there is no {path}; name a folder or file of inputs")
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    files = [one for one in files if not any(part.startswith(".") for part in one.parts[-2:])]
    read = _READERS.get(kind, _read_bytes)
    found = [value for one in files for value in read(one)]
    if not found:
        raise ConfigurationError(f"samples: {path} has no {kind} inputs; put some in it")
    return found[:most]


def split(samples: Sequence[Any], held_out: float = 0.5) -> tuple[list[Any], list[Any]]:
    """(for tuning, held out), by the digest of each input: the same on every machine.

    Equal inputs fall on one side. Where one side would be empty, it gets the last of the other.
    """
    tuning: list[Any] = []
    judging: list[Any] = []
    for one in samples:
        content = one if isinstance(one, bytes) else json.dumps(one, sort_keys=True).encode()
        place = int.from_bytes(hashlib.sha256(content).digest()[:4]) / 2**32
        (judging if place < held_out else tuning).append(one)
    for empty, full in ((judging, tuning), (tuning, judging)):
        if not empty and len(full) > 1:
            empty.append(full.pop())
    return tuning, judging


def _read_texts(path: Path) -> list[Any]:
    if path.suffix == _VALUES:
        return _read_values(path)
    text = _read_text(path)
    return [line for line in text.splitlines() if line.strip()] if path.suffix == _TEXTS else [text]


def _read_values(path: Path) -> list[Any]:
    text = _read_text(path)
    lines = text.splitlines() if path.suffix == _VALUES else [text]
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as exc:
                raise ConfigurationError(f"samples: {path}:{number} is no JSON: {exc}") from exc
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"samples: {path} is no UTF-8 text: {exc.reason}") from exc


def _read_bytes(path: Path) -> list[Any]:
    return [path.read_bytes()]


_READERS: dict[str, Callable[[Path], list[Any]]] = {"text": _read_texts, "json": _read_values}

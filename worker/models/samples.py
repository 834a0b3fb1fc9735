"""Inputs on which a model is checked: the catalog's `samples`, read and split.

A folder holds an input a file; a `.txt` file has a text a line, a `.jsonl` file a JSON value a
line. Those that tune something (calibration, a search) are never those that judge it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError, FleetError
from worker.models.base import Model

__all__ = ("decoded", "read_samples", "split")

_TEXTS, _VALUES = ".txt", ".jsonl"


def read_samples(path: Path, kind: str, most: int = 1000) -> list[Any]:
    """The inputs, as `decode` takes them: str, bytes or JSON values.

    kind: the model's `input`. Raises ConfigurationError where there is none or one is broken.
    """
    if not path.exists():
        raise ConfigurationError(f"samples: there is no {path}; name a folder or file of inputs")
    files = _files_in(path)
    read = _READERS.get(kind, _read_bytes)
    found = [*islice((value for one in files for value in read(one)), most)]
    if not found:
        raise ConfigurationError(f"samples: {path} has no {kind} inputs; put some in it")
    return found


def decoded(handler: Model, values: Iterable[Any], source: Path | str | None) -> list[Any]:
    """As items for `infer`. Raises ConfigurationError that names the first one that it refuses.

    source: where the values were read; None where they are the model's own.
    """
    found = []
    for value in values:
        try:
            found.append(handler.decode(value, {}))
        except FleetError as exc:
            where = f"samples: {_place_of(value, Path(source))}" if source else "its example"
            raise ConfigurationError(f"{where} is refused: {exc}; take it out or mend it") from exc
    return found


def _place_of(value: Any, source: Path) -> str:
    """The file that holds it, with the line where there are several; read again to find it."""
    read = _read_bytes if isinstance(value, bytes) else _read_texts
    for path in _files_in(source):
        try:
            held = [*_read_values(path)] if not isinstance(value, bytes | str) else [*read(path)]
        except ConfigurationError:
            continue
        if value in held:
            return f"{path}:{held.index(value) + 1}" if len(held) > 1 else str(path)
    return f"an input of {source}"


def _files_in(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return [one for one in files if not any(part.startswith(".") for part in one.parts[-2:])]


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

"""Computes a digest of everything that determines a loaded model's outputs, as far as a worker
can read it.

It covers the content of the weights' files, the handler's own source file, its options and
the catalog's name, version, precision, backend and providers. A file's digest is cached by path,
size and modification time, also across restarts: 90 MB take a third of a second to read and
hash, and some weights are a hundred times that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog

from common.catalog import BUILTIN_HANDLERS, ModelSpec
from worker.models.weights import located

__all__ = ("WeightsDigests",)

log = structlog.get_logger(__name__)

_CHUNK_BYTES = 1 << 20
_REMEMBERED_FILES = 1_000
_DIGEST_CHARACTERS = 32

FileState = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""


class WeightsDigests:
    """Computes them, and caches the digests of files in `memory`, a small JSON file."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        """A load and a verdict may ask at once."""
        self._digests: dict[str, tuple[int, int, str]] = _read_memory(memory)

    @staticmethod
    def files(spec: ModelSpec) -> dict[Path, FileState]:
        """The model's files in their current state."""
        return {path: _state(path) for path in _files_of(spec)}

    def make(self, spec: ModelSpec, before: dict[Path, FileState]) -> str | None:
        """The weights digest of a model that was loaded after `before` was read.

        None when one of its files has changed meanwhile, so that the loaded content is
        ambiguous. Weights from a hub may be on disk only now.
        """
        files = self.files(spec) | before
        parts = [spec.name, spec.version, spec.arithmetic, spec.handler_path]
        parts.append(spec.weights if located(spec.weights) is None else "")
        parts.append(json.dumps(spec.options, sort_keys=True, default=str))
        if spec.compiled:
            parts.append("compiled")
        parts.append(_own_version() if spec.handler in BUILTIN_HANDLERS else "")
        for path, state in sorted(files.items(), key=lambda one: _label(spec, one[0])):
            try:
                with self._lock:
                    digest = self._digest(path, state)
            except OSError:
                digest = None
            if digest is None:
                log.warning("weights_changed_while_loading", model=spec.name, path=str(path))
                return None
            parts += [_label(spec, path), digest]
        with self._lock:
            self._keep_memory()
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGEST_CHARACTERS]

    def _digest(self, path: Path, state: FileState) -> str | None:
        known = self._digests.get(str(path))
        digest = known[2] if known is not None and known[:2] == state else _hash(path)
        if _state(path) != state:
            return None
        self._digests.pop(str(path), None)  # kept in order of last use
        self._digests[str(path)] = (*state, digest)
        return digest

    def _keep_memory(self) -> None:
        last_used = dict(list(self._digests.items())[-_REMEMBERED_FILES:])
        scratch = self._memory.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # on failure the next start hashes again
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(last_used), encoding="utf-8")
            scratch.replace(self._memory)


def _files_of(spec: ModelSpec) -> Iterator[Path]:
    weights = located(spec.weights)
    if weights is not None and weights.is_dir():
        yield from (path for path in weights.rglob("*") if path.is_file() and _counts(path))
    elif weights is not None:
        yield weights
    module = sys.modules.get(spec.handler_path.partition(":")[0])
    if source := getattr(module, "__file__", None):
        yield Path(source)


def _counts(path: Path) -> bool:
    return path.suffix not in (".pyc", ".lock")


def _label(spec: ModelSpec, path: Path) -> str:
    """The file's name in the digest, independent of where this machine stores it."""
    weights = located(spec.weights)
    if weights is not None and path.is_relative_to(weights):
        return path.relative_to(weights).as_posix()
    return path.name


def _own_version() -> str:
    """The release's version: a built-in handler has several files, so each release changes its
    digest.
    """
    try:
        return version("lanefleet")
    except PackageNotFoundError:
        return ""


def _state(path: Path) -> FileState:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_memory(path: Path) -> dict[str, tuple[int, int, str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): (int(size), int(at), str(hex_)) for name, (size, at, hex_) in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}

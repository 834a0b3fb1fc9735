"""Imports torch without the part that takes a quarter of its import and that no forward pass needs.

`torch._meta_registrations` computes shapes without data: for torch.compile, export and the "meta"
device. It is executed at the first use of a name in it, or by `finish_torch`, which is called
before any handler is loaded that has not asked for less. Python's own lazy loader does not help:
`inspect` looks at each module's file meanwhile, which ends its laziness. Measured with torch 2.13:
0.95 instead of 1.25 s of CPU time.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_PUT_OFF = "torch._meta_registrations"
_LOCK = threading.RLock()


class _Unexecuted(ModuleType):
    """The module before it was executed; the first use of a name executes it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _execute(self)
        return getattr(self, name)


class _Later(Loader):
    """Executes nothing yet."""

    def create_module(self, _spec: ModuleSpec) -> ModuleType | None:
        """The usual module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Make it one that is executed when it is used."""
        module.__class__ = _Unexecuted


class _Finder(MetaPathFinder):
    """Finds that one module, and none else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Its specification with a loader that executes it later."""
        spec = PathFinder.find_spec(name, path, target) if name == _PUT_OFF else None
        if spec is not None:
            spec.loader_state, spec.loader = spec.loader, _Later()
        return spec


@contextmanager
def deferring() -> Iterator[None]:
    """Inside, an import of torch leaves that part for later; nothing where it is imported."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def finish_torch() -> None:
    """Execute what was left for later, if anything was."""
    module = sys.modules.get(_PUT_OFF)
    if isinstance(module, _Unexecuted):
        _execute(module)


def _execute(module: ModuleType) -> None:
    with _LOCK:
        spec = module.__spec__
        if not isinstance(module, _Unexecuted) or spec is None:
            return  # another thread has done it
        loader: Loader = spec.loader_state
        spec.loader = loader
        object.__setattr__(module, "__class__", ModuleType)
        loader.exec_module(module)

"""Where a tool makes something: a name that is free, in a folder it can write, for one run alone.

All of this is looked at before the work, which may take an hour.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.errors import ConfigurationError
from worker.models.lock_file import locked
from worker.models.new_folder import writing

__all__ = ("claimed", "free_target")


def free_target(path: str) -> Path:
    """The place. Raises ConfigurationError where something is there, a dangling link too."""
    target = Path(path).absolute()
    if os.path.lexists(target):
        raise ConfigurationError(f"{target} is there already; name a folder that is not")
    return target


@contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Inside, no other run makes it. Raises ConfigurationError where one does, or none can."""
    with ExitStack() as stack:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = locked(target.parent / f".{target.name}.claim", wait=False)
            try:
                stack.enter_context(lock)
            except BlockingIOError as exc:
                raise ConfigurationError(
                    f"{target} is being made by another run; wait for that, or name another target"
                ) from exc
        yield

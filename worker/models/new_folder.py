"""Makes a folder that is there whole or not at all.

Everything goes to a folder beside the final one, whose name begins with a dot and which nothing
loads; it takes the final name by one rename, after what it holds has reached the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ConfigurationError
from worker.models.lock_file import locked

__all__ = ("FULL", "new_folder", "writing")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk without room."""


@contextmanager
def new_folder(target: Path) -> Iterator[Path | None]:
    """A folder to fill, which becomes `target` in the end; None where another process made it.

    One process at a time: a second waits for the first. What a killed one left is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial"
    with locked(target.parent / f".{target.name}.lock"):
        if target.exists():
            yield None
            return
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            for path in partial.iterdir():
                _to_disk(path)
            _to_disk(partial)
            partial.rename(target)
            _to_disk(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Inside, what cannot be written is one sentence, a ConfigurationError."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in FULL
        raise ConfigurationError(
            f"{place} could not be written: {exc.strerror or exc}; "
            f"{'make room, or ' if full else ''}name another target"
        ) from exc


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

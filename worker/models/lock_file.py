"""A lock between processes that is a file, which is gone when nobody holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ("locked",)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold it inside. Raises BlockingIOError where another holds it and `wait` is false.

    A killed process leaves the file behind, and the lock free.
    """
    with _held(path, wait):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # held still: who waits for this file makes a new one


def _held(path: Path, wait: bool) -> BinaryIO:
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

"""The progress bar of `map`, on standard error, so that it does not mix with piped output."""

from __future__ import annotations

from collections.abc import Sized
from importlib.util import find_spec
from typing import Protocol

from .errors import ClientError

__all__ = ("Bar", "open_bar")


class Bar(Protocol):
    """The interface by which `map` reports its progress."""

    def advance(self, jobs: int) -> None:
        """Count this many more yielded jobs."""

    def close(self) -> None:
        """End the bar, on success and on failure."""


class _Silent:
    def advance(self, jobs: int) -> None:
        """Do nothing: the bar is not shown."""

    def close(self) -> None:
        """Do nothing."""


class _Rich:
    def __init__(self, title: str, total: int | None) -> None:
        # Imported late: most clients show no bar.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(title, total=total)
        self._progress.start()

    def advance(self, jobs: int) -> None:
        """Advance the bar."""
        self._progress.advance(self._task, jobs)

    def close(self) -> None:
        """Stop the bar in its current state."""
        self._progress.stop()


def open_bar(shown: bool, title: str, inputs: object) -> Bar:
    """A bar for these inputs, or one that is not shown; without their number it only counts.

    Raises ClientError where the package that draws it is missing.
    """
    if not shown:
        return _Silent()
    if find_spec("rich") is None:
        raise ClientError("`progress=True` is drawn by a package: pip install rich")
    return _Rich(title, len(inputs) if isinstance(inputs, Sized) else None)

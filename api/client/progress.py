"""The progress bar of `map`, on standard error, so that what is piped stays clean."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any, Protocol

__all__ = ("Bar", "open_bar")


class Bar(Protocol):
    """What `map` tells of its progress."""

    def advance(self, jobs: int) -> None:
        """So many more were given out."""

    def close(self) -> None:
        """The end, whichever way."""


class _Silent:
    def advance(self, jobs: int) -> None:
        """Nobody is watching."""

    def close(self) -> None:
        """Nothing to take down."""


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
        """Move on."""
        self._progress.advance(self._task, jobs)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


def open_bar(shown: bool, title: str, inputs: Iterable[Any]) -> Bar:
    """A bar for these inputs, or one that is not seen; without their number it only counts."""
    if not shown:
        return _Silent()
    return _Rich(title, len(inputs) if isinstance(inputs, Sized) else None)

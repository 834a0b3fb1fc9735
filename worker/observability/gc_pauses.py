"""Measures the pauses of the garbage collector: no thread runs Python code during one.

Two clock readings a collection, 0.2 us; only the long pauses are counted.
"""

from __future__ import annotations

import gc
import time

LONG_SECONDS = 0.005


class GcPauses:
    """The long pauses since `watch`."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self._began = 0.0

    def watch(self) -> None:
        """Measure from now on."""
        gc.callbacks.append(self._note)

    def unwatch(self) -> None:
        """Measure no more."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)

    def _note(self, phase: str, _about: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        elif now - self._began > LONG_SECONDS:
            self.count += 1
            self.seconds += now - self._began

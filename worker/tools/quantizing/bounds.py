"""What a search may take of the machine: time, and room beside the target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.errors import ConfigurationError
from common.settings import Settings

__all__ = ("Bounds",)


class Bounds:
    """Of one run."""

    def __init__(self, settings: Settings, scratch: Path, clock: Callable[[], float]) -> None:
        self._seconds = settings.quantize_seconds
        self._most_mb = settings.quantize_disk_mb
        self._scratch, self._clock = scratch, clock
        self._begun = clock()

    def check(self) -> None:
        """Before each try. Raises ConfigurationError with the setting that ends the search."""
        if self._clock() - self._begun > self._seconds:
            raise ConfigurationError(
                f"the search took longer than {self._seconds:g} s; raise "
                "LANEFLEET_QUANTIZE_SECONDS, or give fewer samples (--most)"
            )
        files = (one for one in self._scratch.rglob("*") if one.is_file())
        used = sum(one.stat().st_size for one in files) / 1e6
        if used > self._most_mb:
            raise ConfigurationError(
                f"its tries take {used:.1f} MB in {self._scratch}, more than "
                f"{self._most_mb:g}; raise LANEFLEET_QUANTIZE_DISK_MB"
            )

"""A run as a file: kept with `--save`, read by `--compare` and drawn by `--plot`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from api.cli.bench.figures import Stage, knee
from common.errors import ConfigurationError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """A run and where it was taken."""

    stages: Sequence[Stage]
    about: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = knee(self.stages)
        return {
            "format": FORMAT,
            "about": self.about,
            "knee_clients": found.clients if found and len(self.stages) > 1 else None,
            "stages": [one.as_dict() for one in self.stages],
        }

    def save(self, file: Path) -> None:
        """Write it; raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Record:
        """Read it; raises ConfigurationError for a file that `--save` did not write."""
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ConfigurationError(
                    f"{file} has format {found['format']}, and this version reads {FORMAT}: run "
                    "the bench that is to be compared with again"
                )
            return cls([Stage.of(one) for one in found["stages"]], dict(found["about"]))
        except OSError as exc:
            raise ConfigurationError(f"{file}: {exc.strerror or exc}") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigurationError(f"{file} is no run that `bench --save` has written") from exc


def check_save(file: Path) -> None:
    """Raise ConfigurationError where it could not be written: before the load, not after."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        with file.open("ab"):
            pass
        if is_new:
            file.unlink()
    except OSError as exc:
        raise ConfigurationError(f"--save {file}: {exc.strerror or exc}") from exc


def about_here(**more: Any) -> dict[str, Any]:
    """This machine and this moment, and what else there is to say."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "lanefleet": version("lanefleet"),
        "python": platform.python_version(),
        "cores": cores,
        **more,
    }

"""What a tool says while it works, and in the end: JSON lines on its standard output.

`{"doing", "done", "total"}` as it goes on, then `{"report"}` or `{"error"}`. Everything else that
is printed, by libraries too, goes to standard error.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from common.catalog import ModelSpec

Progress = Callable[[str, float, float], None]
"""doing, done, total: any unit, the same for both."""

_TELL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that was tried and is not part of what was made."""

    what: str
    why: str


@dataclass(slots=True)
class Report:
    """What a tool made and how good it is."""

    tool: str
    model: str
    made: str | None = None
    """The folder or file; None where nothing was made."""
    bytes_before: int | None = None
    bytes_after: int | None = None
    ratio: float | None = None
    """Items a second against before, measured interleaved on this machine."""
    measure: str = ""
    """What `agreement` is: `min cosine`, `top-1`."""
    agreement: float | None = None
    samples: int = 0
    """Held-out inputs that it was measured on."""
    tolerance: float | None = None
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """A table, where the tool compares several."""
    seconds: float = 0.0


class Speaker:
    """Writes the lines; not more than ten of progress a second."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._next = 0.0

    def progress(self, doing: str, done: float, total: float) -> None:
        """Say how far the tool is."""
        now = time.monotonic()
        if now >= self._next or done >= total:
            self._next = now + _TELL_SECONDS
            self._say({"doing": doing, "done": done, "total": total})

    def report(self, report: Report) -> None:
        """The last line."""
        self._say({"report": _finite(asdict(report))})

    def error(self, sentence: str) -> None:
        """The last line, where it failed."""
        self._say({"error": sentence})

    def _say(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def asked_tolerance(arguments: Mapping[str, Any], spec: ModelSpec, default: float) -> float:
    """Of the command, else of the catalog, else the tool's; 0 is a tolerance too."""
    asked: float | None = arguments.get("tolerance")
    asked = spec.tolerance if asked is None else asked
    return default if asked is None else asked


def _finite(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON has no numbers for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value

"""What a supervisor and the worker process that it starts tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from worker.guard.arrival import process_began
from worker.guard.marks import Marks

FAILED: Final = 1
"""The status of a process that cannot use its device any more."""
STUCK: Final = 70
"""Of one that a model's code held for longer than its limit."""
REPLACE: Final = 75
"""Of one that asks to be replaced: it has used its share of memory, jobs or threads."""


@dataclass(frozen=True, slots=True)
class Supervision:
    """What a process is told at its start. Without a supervisor it keeps marks for nobody."""

    marks: Marks = field(default_factory=Marks)
    out_of_service: Mapping[str, tuple[str, float | None]] = field(default_factory=dict)
    """Models not to load: why, and for how many seconds; None is until an operator asks for it."""
    hold: bool = False
    """Whether to reserve nothing until its models are loaded: so that it is plain what ends it."""
    began: float = field(default_factory=process_began)
    """When the process was started, or the supervisor whose first one it is; steady clock."""

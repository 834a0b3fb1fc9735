"""What a student is to be taught, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.catalog import ModelSpec
from worker.tools.training.loop import Learner

__all__ = ("Ask", "Lesson")


@dataclass(frozen=True, slots=True)
class Ask:
    """What was asked for."""

    target: Path
    data: str
    loss: str = "outputs"
    layers: int | None = None
    hidden: int | None = None
    tolerance: float = 0.9
    """Least mean agreement on held-out inputs."""
    most: int | None = None
    """Inputs read; 20,000 texts or 1,000 others, which are held decoded."""
    held_out: float = 0.1
    """Share of them that only judges."""
    seconds: float = 8.0
    """CPU time for the comparison of speeds."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A student before its training."""

    learner: Learner
    student: ModelSpec
    """The catalog's entry as it would be, less its weights."""
    weights: list[Path]
    """The teacher's files."""
    notes: list[str]
    save: Callable[[Path], None]
    """Writes the student, as its handler loads it, into a folder."""
    reduce: Callable[[list[float]], list[float]] | None = None
    """Turns a vector of the teacher into what the student should give; None where alike."""

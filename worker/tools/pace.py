"""Which of two ways is faster, and by how much: measured in turns.

CPU seconds of this process, as other programs use the machine too; in turns, since processors
change their pace within seconds. A ratio is that of the medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from worker.models.base import Model
from worker.tools.report import Progress
from worker.transfer import Later

__all__ = ("Pace", "compare", "outputs_of")

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 60


@dataclass(frozen=True, slots=True)
class Pace:
    """How two ways compare."""

    ratio: float
    """Above 1 the second is faster."""
    before_ms: float
    after_ms: float
    rounds: int


def compare(
    before: Callable[[], object],
    after: Callable[[], object],
    progress: Progress,
    *,
    doing: str = "measuring",
    seconds: float = 8.0,
) -> Pace:
    """Run both in turns for about so many CPU seconds, after a first time that does not count."""
    before()
    after()
    taken: tuple[list[float], list[float]] = ([], [])
    begun = time.process_time()
    while len(taken[0]) < _MOST_ROUNDS:
        used = time.process_time() - begun
        if used >= seconds and len(taken[0]) >= _LEAST_ROUNDS:
            break
        progress(doing, min(used, seconds), seconds)
        for run, into in zip((before, after), taken, strict=True):
            start = time.process_time()
            run()
            into.append(time.process_time() - start)
    progress(doing, seconds, seconds)
    first, second = median(taken[0]), median(taken[1])
    ratio = first / second if second else 1.0
    return Pace(ratio, first * 1e3, second * 1e3, len(taken[0]))


def outputs_of(handler: Model, items: Sequence[Any]) -> Sequence[Any]:
    """What `infer` returns for a batch, once it is here."""
    found = handler.infer(items)
    return found.wait() if isinstance(found, Later) else found

"""What is noted of results besides their number: a classifier's first score, and what a shadow is
compared with. Lanes that need neither have no watch, and their jobs pay for none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from common.catalog import ModelSpec
from worker.jobs.execution import Execution
from worker.lanes.lane_stats import LaneStats
from worker.lanes.shadow import Shadow

Watch = Callable[[Execution, Any, bytes], None]
"""Called by the finisher with a job that succeeded, what `encode` returned, and that as JSON. It
never raises."""


def watch_of(spec: ModelSpec, stats: LaneStats, shadow: Shadow | None) -> Watch | None:
    """The watch of a lane that this model serves; None where there is nothing to note."""
    classifies = spec.task == "classify"
    if not classifies and shadow is None:
        return None

    def watch(execution: Execution, value: Any, result: bytes) -> None:
        if execution.kept is not None:
            execution.answer = result
        if classifies and (score := first_score(value)) is not None:
            stats.version(execution.version).was_sure(score)

    return watch


def first_score(value: Any) -> float | None:
    """The score of the first label of a result; None where it has none."""
    labels = value.get("labels") if isinstance(value, dict) else None
    first = labels[0] if isinstance(labels, list | tuple) and labels else None
    score = first.get("score") if isinstance(first, dict) else None
    # A float is asked for first: an abstract class costs a microsecond a job.
    if type(score) is not float:
        if isinstance(score, bool) or not isinstance(score, Real):
            return None
        score = float(score)
    return score if math.isfinite(score) else None

"""Whether one run was slower than another. Pure.

The rule, for each number of clients that both runs have, and for throughput, p50 and p95:

- The estimate is the ratio of the two runs, as "how much worse": 1.2 is 20 % more time, for
  throughput 20 % more time an item.
- Its interval (95 %) is from a bootstrap over the windows of each run (a second each, or a few
  batches where those take longer), in blocks of consecutive ones, as one resembles the next.
- Slower means: the estimate is beyond the threshold (10 %; twice that for p95, which few answers
  determine) **and** the whole interval is beyond half of it.
- An interval wider than the threshold to either side says that the machine was too unsteady to
  tell; then only a change larger than that is seen.

Windows say how a run scatters within itself, not how two runs on a shared machine differ: that is
what the threshold is for. An answer in error is a difference too: more than one point more of them.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from api.cli.bench.figures import Stage, Window

THRESHOLD = 0.10
"""How much worse is slower: less than half of it is what a shared machine does by itself."""
ERROR_POINTS = 0.01
_TAIL_FACTOR = 2.0
_RESAMPLES = 1_000
_OUTSIDE = 0.025
"""Of the resamples, on each side of the interval."""
_SEED = 15

Verdict = Literal["slower", "faster", "same", "unclear"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one stage, before and after."""

    model: str
    clients: int
    figure: str
    before: float
    after: float
    worse: float
    """Ratio; above 1 is worse."""
    low: float
    high: float
    """The interval of `worse`."""
    threshold: float

    @property
    def verdict(self) -> Verdict:
        """In a word."""
        if self.worse > 1 + self.threshold and self.low > 1 + self.threshold / 2:
            return "slower"
        if self.worse < 1 / (1 + self.threshold) and self.high < 1 / (1 + self.threshold / 2):
            return "faster"
        wide = math.log(self.high / self.low) / 2 if self.low > 0 else math.inf
        return "unclear" if wide > math.log1p(self.threshold) else "same"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "verdict": self.verdict}


def compare(
    before: Sequence[Stage], after: Sequence[Stage], threshold: float = THRESHOLD
) -> list[Change]:
    """Every figure of the stages that both runs have; none where they have none in common."""
    earlier = {(one.model, one.clients): one for one in before}
    changes = []
    for stage in after:
        old = earlier.get((stage.model, stage.clients))
        if old is not None:
            changes += _changes(old, stage, threshold)
    return changes


def is_slower(changes: Sequence[Change]) -> bool:
    """Whether any figure is."""
    return any(one.verdict == "slower" for one in changes)


def _changes(before: Stage, after: Stage, threshold: float) -> list[Change]:
    tail = threshold * _TAIL_FACTOR
    found = [
        _change("items/s", before, after, threshold, _seconds_an_item),
        _change("p50 ms", before, after, threshold, _typical_p50),
        _change("p95 ms", before, after, tail, _typical_p95),
        _errors(before, after),
    ]
    return [one for one in found if one is not None]


Statistic = Callable[[Sequence[Window]], float | None]


def _seconds_an_item(windows: Sequence[Window]) -> float | None:
    items = sum(one.items for one in windows)
    return len(windows) / items if items else None


def _typical_p50(windows: Sequence[Window]) -> float | None:
    found = [one.p50_ms for one in windows if one.p50_ms is not None]
    return statistics.median(found) if found else None


def _typical_p95(windows: Sequence[Window]) -> float | None:
    found = [one.p95_ms for one in windows if one.p95_ms is not None]
    return statistics.median(found) if found else None


def _change(
    figure: str, before: Stage, after: Stage, threshold: float, of: Statistic
) -> Change | None:
    old, new = of(before.windows), of(after.windows)
    if not old or not new:
        return None
    chance = random.Random(_SEED)  # noqa: S311 - the same figures give the same verdict
    ratios = sorted(
        theirs / ours
        for _ in range(_RESAMPLES)
        if (ours := of(_resample(before.windows, chance)))
        and (theirs := of(_resample(after.windows, chance)))
    )
    if not ratios:
        return None
    edge = int(_OUTSIDE * len(ratios))
    shown = (1 / old, 1 / new) if of is _seconds_an_item else (old, new)
    low, high = ratios[edge], ratios[-1 - edge]
    return Change(after.model, after.clients, figure, *shown, new / old, low, high, threshold)


def _resample(windows: Sequence[Window], chance: random.Random) -> list[Window]:
    """As many windows, in blocks of about the root of their number, round the end."""
    count = len(windows)
    block = max(1, round(math.sqrt(count)))
    drawn: list[Window] = []
    while len(drawn) < count:
        start = chance.randrange(count)
        drawn += [windows[(start + step) % count] for step in range(block)]
    return drawn[:count]


def _errors(before: Stage, after: Stage) -> Change | None:
    """Errors as a change of the answers that are none; None while they are as few as before."""
    old, new = before.error_share, after.error_share
    if new - old <= ERROR_POINTS:
        return None
    worse = (1 - old) / (1 - new) if new < 1 else math.inf
    return Change(after.model, after.clients, "errors", old, new, worse, worse, worse, 0.0)

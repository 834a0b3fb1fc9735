"""What a stage of load amounts to, and which number of clients is the knee.

Pure: tested with made-up stages.

The knee is the least number of clients that reaches 95 % of the best throughput of the run. More
clients than that mostly wait for each other: latency grows with their number, throughput does
not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KNEE_SHARE = 0.95
"""Of the best throughput."""
_BATCHES_A_WINDOW = 3.0
_LEAST_WINDOWS = 10


@dataclass(frozen=True, slots=True)
class Window:
    """The answers that came within one second, or within a few batches where those take longer."""

    items: int
    p50_ms: float | None = None
    """None where there was no answer."""
    p95_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One model under a constant number of clients. Latencies are from the request to the result;
    those of errors are not among them.
    """

    model: str
    clients: int
    seconds: float
    items: int
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    worst_ms: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    """Number by kind."""
    reused: int = 0
    """Results of the cache, or of an identical job."""
    windows: Sequence[Window] = ()
    """One after the other, of the same length."""
    batches: Mapping[int, int] = field(default_factory=dict)
    """Number of batches by size, over all workers; empty where they were not readable."""
    device_busy: float | None = None
    """Mean share of the time in which the workers' devices ran a batch, 0 to 1."""
    generator_busy: float = 0.0
    """Share of one core that the load took, 0 to 1."""
    generator_waited: float | None = None
    """Of the time in which the load needed a core, the share in which it waited for one, 0 to 1:
    near 0 on a machine that has enough of them.
    """
    machine_busy: float | None = None
    """Share of this machine's cores that was in use, by whatever, 0 to 1."""

    @property
    def items_per_second(self) -> float:
        """Throughput."""
        return self.items / self.seconds if self.seconds > 0 else 0.0

    @property
    def error_share(self) -> float:
        """Errors of all answers, 0 to 1."""
        failed = sum(self.errors.values())
        return failed / (failed + self.items) if failed else 0.0

    @property
    def mean_batch(self) -> float | None:
        """Jobs a batch; None where no batch is known."""
        count = sum(self.batches.values())
        jobs = sum(size * number for size, number in self.batches.items())
        return jobs / count if count else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        windows = [[one.items, one.p50_ms, one.p95_ms] for one in self.windows]
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "items_per_second": round(self.items_per_second, 2),
            "mean_batch": self.mean_batch,
            "errors": dict(self.errors),
            "batches": {str(size): number for size, number in sorted(self.batches.items())},
            "windows": windows,
        }

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Stage:
        """From `as_dict`; raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            **{name: found[name] for name in _PLAIN},
            errors=dict(found["errors"]),
            batches={int(size): int(number) for size, number in found["batches"].items()},
            windows=[Window(*one) for one in found["windows"]],
        )


_PLAIN = (
    *("model", "clients", "seconds", "items", "p50_ms", "p95_ms", "p99_ms", "worst_ms"),
    *("reused", "device_busy", "generator_busy", "generator_waited", "machine_busy"),
)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that this share of all do not exceed; `ordered` is sorted, not empty."""
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def window_seconds(seconds: float, p50_ms: float) -> float:
    """One second, and longer where answers come in batches that take about as long: a window then
    has a few of them, as long as there are ten windows.
    """
    return max(1.0, min(_BATCHES_A_WINDOW * p50_ms / 1000, seconds / _LEAST_WINDOWS))


def windows_of(
    answers: Sequence[tuple[float, float]], seconds: float, length: float = 1.0
) -> list[Window]:
    """answers: (seconds since the start, latency in ms). Only whole windows of `length` seconds."""
    count = int(seconds / length + 1e-9)
    parts: list[list[float]] = [[] for _ in range(count)]
    for at, latency in answers:
        number = int(at / length)
        if 0 <= number < count:
            parts[number].append(latency)
    return [_window(sorted(part)) for part in parts]


def _window(ordered: Sequence[float]) -> Window:
    if not ordered:
        return Window(0)
    p50, p95 = percentile(ordered, 0.5), percentile(ordered, 0.95)
    return Window(len(ordered), round(p50, 3), round(p95, 3))


def knee(stages: Sequence[Stage]) -> Stage | None:
    """The stage with the fewest clients that reaches 95 % of the best throughput.

    None where nothing was answered.
    """
    best = max((one.items_per_second for one in stages), default=0.0)
    reaching = [one for one in stages if one.items_per_second >= KNEE_SHARE * best > 0]
    return min(reaching, key=lambda one: one.clients, default=None)


def is_still_rising(stages: Sequence[Stage]) -> bool:
    """Whether the knee is the largest number of clients tried, so that more may bring more."""
    found = knee(stages)
    return len(stages) > 1 and found is max(stages, key=lambda one: one.clients)


def spread(windows: Sequence[Window]) -> float:
    """How far the throughput of windows scatters: standard deviation over mean, 0 to ..."""
    items = [one.items for one in windows]
    mean = statistics.fmean(items) if items else 0.0
    return statistics.pstdev(items) / mean if mean else 0.0

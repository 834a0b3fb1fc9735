"""How fast a model runs by the size of its batches, and the `max_batch` and `max_wait_ms` that
follow. Times are of `infer` alone, in this process, with the threads that a worker has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import median
from typing import Any, NamedTuple

from worker.checking.verbs import Verbs

__all__ = ("Pace", "advise", "paces")

_SIZE_SECONDS = 0.4
_GRACE = 3
"""Each size runs at least twice; larger ones are left out after so many times the seconds."""
_MOST_RUNS = 50
_LONG_BATCH_SECONDS = 5.0
_ENOUGH = 0.95
"""Share of the best pace with which a smaller batch is as good."""
_WORTH_WAITING = 1.1
_LONGEST_WAIT_MS = 100.0


class Pace(NamedTuple):
    """One size of batch."""

    batch: int
    items_per_second: float
    cpu_ms_per_item: float
    latency_ms: float
    """Of the whole batch, the median."""


def paces(verbs: Verbs, items: Sequence[Any], seconds: float) -> list[Pace]:
    """1, 2, 4 ... max_batch, for about so long in all; stops where a batch takes long."""
    found: list[Pace] = []
    until = time.monotonic() + _GRACE * seconds
    size, most = 1, verbs.spec.max_batch
    each = min(_SIZE_SECONDS, seconds / (1 + most.bit_length()))
    while True:
        found.append(_pace(verbs, items, size, each))
        slow = found[-1].latency_ms > _LONG_BATCH_SECONDS * 1000
        if size == most or slow or time.monotonic() >= until:
            return found
        size = min(2 * size, most)


def _pace(verbs: Verbs, items: Sequence[Any], size: int, seconds: float) -> Pace:
    coming = cycle(items)  # each run takes the next ones, so that all sizes run the same mix
    verbs.infer_fast(list(islice(coming, size)))
    walls: list[float] = []
    cpus: list[float] = []
    stop = time.monotonic() + seconds
    while len(walls) < _MOST_RUNS:
        batch = list(islice(coming, size))
        wall, cpu = time.perf_counter(), time.process_time()
        verbs.infer_fast(batch)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        if time.monotonic() >= stop:
            break
    wall, cpu = median(walls), median(cpus)
    return Pace(
        size,
        round(size / max(wall, 1e-9), 1),
        round(cpu * 1000 / size, 3),
        round(wall * 1000, 3),
    )


def advise(found: Sequence[Pace], target_latency_ms: float | None = None) -> dict[str, Any]:
    """`max_batch`, `max_wait_ms` and why."""
    allowed = [one for one in found if not target_latency_ms or one.latency_ms <= target_latency_ms]
    within = f", within target_latency_ms {target_latency_ms:g}" if target_latency_ms else ""
    candidates = allowed or found[:1]
    best = max(one.items_per_second for one in candidates)
    chosen = next(one for one in candidates if one.items_per_second >= _ENOUGH * best)
    gain = chosen.items_per_second / found[0].items_per_second
    if gain < _WORTH_WAITING:
        return {
            "max_batch": chosen.batch,
            "max_wait_ms": 0,
            "why": f"a batch brings {gain:.2f}x over one item{within}: waiting for company "
            "would cost time and bring none",
        }
    wait = round(min(chosen.latency_ms, _LONGEST_WAIT_MS), 1 if chosen.latency_ms < 10 else 0)
    return {
        "max_batch": chosen.batch,
        "max_wait_ms": wait,
        "why": f"{chosen.batch} is the smallest batch with {_ENOUGH:.0%} of the best "
        f"pace{within}, {gain:.2f}x that of one item; a job waits for company no "
        f"longer than such a batch takes ({chosen.latency_ms:g} ms), and {_LONGEST_WAIT_MS:g} ms "
        "at most",
    }

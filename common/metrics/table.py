"""Every metric of Lanefleet, declared once; docs/metrics.md is made from this table.

Nothing is exposed that is not declared here, and whatever is declared for a process is exposed by
it (`when` says on what that depends). Labels have few values: lanes, routes, states, and a bounded
number of tenants; never an id or a URL.
"""

from __future__ import annotations

from types import ModuleType

from common.metrics import (
    api,
    batches,
    compatible,
    courier,
    generation,
    lanes,
    process,
    server,
    worker,
)
from common.metrics.declaration import Metric


def _of(module: ModuleType) -> tuple[Metric, ...]:
    return tuple(one for one in vars(module).values() if isinstance(one, Metric))


METRICS: tuple[Metric, ...] = (
    *_of(api),
    *_of(lanes),
    *_of(server),
    *_of(worker),
    *_of(generation),
    *_of(courier),
    *_of(batches),
    *_of(process),
    *_of(compatible),
)
"""All of them, in order."""

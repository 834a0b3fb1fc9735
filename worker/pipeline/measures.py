"""What is measured of a batch that ran: its size, fill, padding and time, and whose jobs it had.

A few additions a batch; of a job, its cost and its tenant are looked at.
"""

from __future__ import annotations

from collections import Counter
from operator import attrgetter

from worker.batching.batcher import Batch
from worker.jobs.execution import Execution
from worker.jobs.tenant_usage import TenantUsage
from worker.lanes.lane import Lane
from worker.pipeline.in_progress import Runs

_COST, _TENANT = attrgetter("cost"), attrgetter("tenant")


def measure(
    lane: Lane,
    batch: Batch[Execution],
    runs: Runs,
    seconds: float,
    now: float,
    tenants: TenantUsage,
) -> None:
    """Record a batch that took `seconds` on the device and ended now, in steady time."""
    stats, caps, padded = lane.stats, lane.limits, batch.padded_cost
    alike = len(runs) == len(batch)
    cost = sum(map(_COST, batch)) if alike else sum(run[0].cost for run in runs)
    share = max(len(runs) / caps.max_batch, padded / caps.max_cost if caps.max_cost else 0.0)
    stats.count(len(batch))
    stats.stages.ran(len(batch), min(1.0, share), cost, padded, seconds)
    stats.version(batch[0].version or lane.spec.version).infer.observe(seconds)
    names = set(map(_TENANT, batch))
    if names != {""}:
        _share(batch, names, seconds, now, tenants)


def _share(
    batch: Batch[Execution], names: set[str], seconds: float, now: float, tenants: TenantUsage
) -> None:
    """Charge each tenant with its share of the time, by the cost of its jobs."""
    if len(names) == 1:
        tenants.used(names.pop(), seconds, len(batch), now)
        return
    costs: dict[str, float] = dict.fromkeys(names, 0.0)
    for tenant, cost in zip(map(_TENANT, batch), map(_COST, batch), strict=True):
        costs[tenant] += cost
    items, total = Counter(map(_TENANT, batch)), sum(costs.values())
    for tenant, cost in costs.items():
        if tenant:
            part = cost / total if total else items[tenant] / len(batch)
            tenants.used(tenant, seconds * part, items[tenant], now)

"""What a worker process counts, for the metrics. Each field has one writer."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.jobs.tenant_usage import TenantUsage


@dataclass(slots=True)
class WorkerCounts:
    """Counts since the start of the process; any thread may read."""

    reserved: int = 0
    renewed: int = 0
    reaped: int = 0
    retried: int = 0
    dead: int = 0
    """Jobs that ended after their last attempt, or could not be read."""
    dead_at_start: int = 0
    """Jobs whose attempts were spent when they should have started."""
    outbox_entries: int | None = None
    """The length of the fleet's outbox when it was last read; None where it cannot be read."""
    outbox_failed: int | None = None
    tenants: TenantUsage = field(default_factory=lambda: TenantUsage(0))
    """The device's time by tenant."""

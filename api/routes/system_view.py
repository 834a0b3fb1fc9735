"""The whole fleet in one view, summed from what its processes say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from api.jobs.outbox import OutboxCounts
from common.worker_report import WorkerReport

Status = Literal["ok", "degraded", "unavailable"]


class MemoryUsage(BaseModel):
    """Memory of the workers' GPUs, in 2^30 bytes."""

    gpu_allocated_gb: float = Field(description="What tensors take.")
    gpu_reserved_gb: float = Field(description="What torch keeps for them.")


class Performance(BaseModel):
    """Memory of the processes, and what makes them fast."""

    memory_mb: float = Field(
        description="Resident memory of every live worker and of the API processes of the machine "
        "that answers, in 2^20 bytes."
    )
    optimizations: dict[str, Any] = Field(
        description="By library, its version, null where it is not in use; `pillow-simd` with its "
        "instruction set; `threads` by library. A list where workers differ."
    )


class ProcessView(BaseModel):
    """One process."""

    name: str
    role: Literal["api", "worker"]
    memory_mb: float
    device: str | None = None
    models: list[str] = Field(default_factory=list, description="Models that it has in memory.")
    cold_start_seconds: float | None = Field(
        None, description="From its start to its first result; null until it is known."
    )


class RedisView(BaseModel):
    """The queue's Redis."""

    reachable: bool
    flavour: str | None = None
    version: str | None = None
    used_memory_mb: float | None = None
    maxmemory_mb: float | None = Field(None, description="0 is no limit.")
    maxmemory_policy: str | None = None
    warnings: list[str] = Field(
        default_factory=list, description="What its operator should see to."
    )

    @classmethod
    def of(cls, info: Mapping[str, Any], named: tuple[str, str], warnings: list[str]) -> RedisView:
        """From INFO; what it does not say is left out."""

        def mb(field: str) -> float | None:
            return round(int(info[field]) / 2**20, 1) if field in info else None

        flavour, version = named
        return cls(
            reachable=True,
            flavour=flavour if version else None,
            version=version or None,
            used_memory_mb=mb("used_memory"),
            maxmemory_mb=mb("maxmemory"),
            maxmemory_policy=info.get("maxmemory_policy"),
            warnings=warnings,
        )


class OutboxCountsView(BaseModel):
    """What settled jobs lead to and was not sent."""

    waiting: int
    failed: int = Field(description="Given up after eight tries; see `lanefleet outbox list`.")


class SystemView(BaseModel):
    """The fleet: whether it works, what it takes, what it runs on."""

    status: Status = Field(
        description="Degraded: new work is refused. Unavailable: Redis cannot be reached, and what "
        "the workers say is of before."
    )
    model_loaded: bool = Field(description="Whether some worker has a model in memory.")
    gpu_available: bool = Field(description="Whether some worker runs on a GPU.")
    memory_usage: MemoryUsage
    performance: Performance
    versions: dict[str, Any] = Field(
        description="By package; a list where processes differ, as in a rolling upgrade."
    )
    redis: RedisView
    outbox: OutboxCountsView | None
    processes: list[ProcessView]


class ApiFacts(BaseModel):
    """What the API process that answers knows of itself and of its siblings."""

    processes: list[ProcessView]
    optimizations: dict[str, Any]
    versions: dict[str, str]


def system_view(
    status: Status,
    api: ApiFacts,
    reports: Sequence[WorkerReport],
    redis: RedisView,
    outbox: OutboxCounts | None,
) -> SystemView:
    """Sum the workers' reports and what the API says."""
    processes = [*api.processes, *map(_worker, reports)]
    runtimes = [one.runtime for one in reports]
    return SystemView(
        status=status,
        model_loaded=any(one.models for one in processes),
        gpu_available=any(one.gpu for one in runtimes),
        memory_usage=MemoryUsage(
            gpu_allocated_gb=round(sum(one.gpu_allocated_gb for one in runtimes), 3),
            gpu_reserved_gb=round(sum(one.gpu_reserved_gb for one in runtimes), 3),
        ),
        performance=Performance(
            memory_mb=round(sum(one.memory_mb for one in processes), 1),
            optimizations=merged([api.optimizations, *(one.optimizations for one in runtimes)]),
        ),
        versions=merged([api.versions, *(one.versions for one in runtimes)]),
        redis=redis,
        outbox=None if outbox is None else OutboxCountsView(**outbox._asdict()),
        processes=processes,
    )


def _worker(report: WorkerReport) -> ProcessView:
    return ProcessView(
        name=report.worker,
        role="worker",
        memory_mb=round(report.rss_mb, 1),
        device=report.device,
        models=sorted(report.models),
        cold_start_seconds=report.runtime.cold_start_seconds,
    )


def merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of several: by name the one value, or the distinct ones as a list; mappings
    among them likewise.
    """
    values: dict[str, list[Any]] = {}
    for part in parts:
        for name, value in part.items():
            seen = values.setdefault(name, [])
            if value not in seen:
                seen.append(value)
    return {name: _one_of(seen) for name, seen in values.items()}


def _one_of(seen: list[Any]) -> Any:
    if all(isinstance(one, dict) for one in seen):
        return merged(seen)
    return seen[0] if len(seen) == 1 else seen

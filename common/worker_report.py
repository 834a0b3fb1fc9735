"""The report that a worker writes twice a second: the contract between workers and the front.

Stored in Redis as JSON under `lf:worker:<name>`, and returned by `GET /v1/workers` unchanged.
Workers of two versions run side by side during a rolling upgrade, so reading is lenient: a
missing field gets its default, an unknown one is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import orjson

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StageTime:
    """How often a stage was measured, and its total time."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """The device's time since the worker's start, in seconds."""

    seconds: float = 0.0
    """Total since the start."""
    busy: float = 0.0
    idle: dict[str, float] = field(default_factory=dict)
    """Idle seconds by cause."""
    other: float = 0.0
    """Neither busy nor idle: between two batches."""
    recent_busy: float = 0.0
    """The busy share of the last ten seconds or so, 0 to 1."""


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What a shadow of a lane has done since the worker's start."""

    model: str = ""
    loaded: bool = False
    compared: int = 0
    """Jobs whose results were compared."""
    agreement: float | None = None
    """The mean of them: 0 to 1, or a cosine; None before the first."""
    failed: int = 0
    """Jobs that the shadow could not answer."""
    dropped: int = 0
    """Jobs that it was too far behind for."""


@dataclass(frozen=True, slots=True)
class LaneReport:
    """One lane of a worker; counts and seconds are since the worker's start."""

    loaded: bool = False
    """Whether its model is in memory."""
    lazy: bool = False
    """Whether its model is loaded with its first job."""
    error: str | None = None
    """Why its model is not in memory, where a load failed."""
    warning: str | None = None
    """What an operator should know of its model's precision or backend."""
    model: str = ""
    fingerprint: str | None = None
    """The digest of the model's weights, once it is known."""
    in_hand: int = 0
    """Jobs leased now."""
    fetching: int = 0
    """Jobs whose input is being fetched now."""
    max_batch: int = 0
    batch_seconds: float = 0.0
    """The recent average time of a batch; 0 before the first."""
    batches: dict[str, int] = field(default_factory=dict)
    """Number of batches by size; the sizes are text, as JSON requires."""
    stages: dict[str, StageTime] = field(default_factory=dict)
    decode_beside_seconds: float = 0.0
    """The part of the decoding time during which the device ran a batch."""
    jobs: int = 0
    """Jobs that ran."""
    room: float = 0.0
    """Number of jobs if all these batches had been full."""
    cost: float = 0.0
    padded_cost: float = 0.0
    """In the model's unit: the cost of the jobs, and their cost padded to one length per batch."""
    rows: int = 0
    """Rows that generate now; this and the next are of lanes whose work is steps."""
    slots: int = 0
    """Rows that there are."""
    row_tokens: int = 0
    """Tokens that the jobs on rows may come to hold."""
    steps: int = 0
    tokens: int = 0
    """Tokens generated."""
    shares: dict[str, float] = field(default_factory=dict)
    """By model, the share of its jobs, where several share them; those that are loaded."""
    missing: dict[str, str] = field(default_factory=dict)
    """Models with a share that are not loaded, and why."""
    shadow: ShadowReport | None = None

    @property
    def settled(self) -> bool:
        """Whether its model is loaded, known not to load, or waits for its first job."""
        return self.loaded or self.error is not None or self.lazy

    @property
    def batch_count(self) -> int:
        """Total number of batches."""
        return sum(self.batches.values())

    @property
    def batched_jobs(self) -> int:
        """Total number of jobs in these batches."""
        return sum(int(size) * count for size, count in self.batches.items())


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model in memory."""

    memory_mb: float = 0.0
    load_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """Numbers of results written into the cache, and of failed writes."""

    stored: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class PreparedReport:
    """Inputs that were decoded for one model and are kept for another."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """What the process runs on; the versions are empty until its models are loaded."""

    gpu: bool = False
    gpu_allocated_gb: float = 0.0
    gpu_reserved_gb: float = 0.0
    """Memory of the device that tensors take, and that torch keeps for them; in 2^30 bytes."""
    optimizations: dict[str, Any] = field(default_factory=dict)
    """What makes it fast, by version, None where it is not in use; and `threads` by library."""
    versions: dict[str, str] = field(default_factory=dict)
    cold_start_seconds: float | None = None
    """From its start to its first result, or to its first loaded model where no job waited."""
    gc_pauses: int = 0
    gc_pause_seconds: float = 0.0
    """Pauses of the garbage collector over 5 ms: their number and total time."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker process."""

    worker: str
    """Its Celery node name."""
    pid: int = 0
    round: int = 0
    """The number of this report, from 1; two rounds after an event every field includes it."""
    device: str = ""
    started_at: float = 0.0
    """Unix seconds."""
    start_seconds: float = 0.0
    """From the process' start until its lanes were built; 0 where that is unknown."""
    on_the_bus: bool = False
    """Whether Celery's remote control reaches it."""
    loading: str | None = None
    """The model that is being loaded or warmed up."""
    warnings: list[str] = field(default_factory=list)
    """Sentences about calls of models that take long, and why the process leaves by itself."""
    rss_mb: float = 0.0
    """The resident memory of the process."""
    finished: int = 0
    """Number of results it published."""
    fenced: int = 0
    """Number of results refused because the lease was no longer its own."""
    cache: CacheCounts = field(default_factory=CacheCounts)
    prepared: PreparedReport = field(default_factory=PreparedReport)
    switches: int = 0
    """How often the device switched from one lane to another."""
    device_time: DeviceTimes | None = None
    """None where the worker's version does not report it."""
    runtime: RuntimeReport = field(default_factory=RuntimeReport)
    lanes: dict[str, LaneReport] = field(default_factory=dict)
    models: dict[str, ModelReport] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether every model is loaded, known not to load, or waits for its first job."""
        return self.on_the_bus and all(lane.settled for lane in self.lanes.values())

    def dump(self) -> bytes:
        """Encode as JSON."""
        return orjson.dumps(self)

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values that JSON can represent."""
        return asdict(self)

    @classmethod
    def load(cls, text: bytes) -> WorkerReport:
        """Parse the output of `dump`, of this or another version."""
        return cls.of(orjson.loads(text))

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> WorkerReport:
        """Build one from parsed JSON, as the Python client returns it."""
        times = found.get("device_time")
        return _known(
            cls,
            found,
            cache=_known(CacheCounts, found.get("cache") or {}),
            prepared=_known(PreparedReport, found.get("prepared") or {}),
            runtime=_known(RuntimeReport, found.get("runtime") or {}),
            device_time=None if times is None else _known(DeviceTimes, times),
            lanes={name: _lane(lane) for name, lane in (found.get("lanes") or {}).items()},
            models={
                name: _known(ModelReport, one) for name, one in (found.get("models") or {}).items()
            },
        )


def _lane(found: Mapping[str, Any]) -> LaneReport:
    stages = found.get("stages") or {}
    shadow = found.get("shadow")
    return _known(
        LaneReport,
        found,
        stages={name: _known(StageTime, one) for name, one in stages.items()},
        shadow=None if shadow is None else _known(ShadowReport, shadow),
    )


def _known(kind: type[T], found: Mapping[str, Any], **replaced: Any) -> T:
    """An instance of this dataclass from the fields that it declares."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    return kind(**{**{name: found[name] for name in names & found.keys()}, **replaced})

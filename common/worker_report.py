"""What a worker says of itself twice a second: the contract between workers and the front.

Kept in Redis as JSON under `lf:worker:<name>`, and answered by `GET /v1/workers` as it is.
Workers of two versions run side by side while a fleet is rolled, so reading takes what it
knows: a field that is not there has its default, one that is unknown is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import orjson

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StageTime:
    """How often a stage was gone through, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """What the device did since the worker's start, in seconds."""

    seconds: float = 0.0
    """Since the start."""
    busy: float = 0.0
    idle: dict[str, float] = field(default_factory=dict)
    """By cause."""
    other: float = 0.0
    """Between two batches."""
    recent_busy: float = 0.0
    """The busy share of the last ten seconds or so, 0 to 1."""


@dataclass(frozen=True, slots=True)
class LaneReport:
    """One lane of a worker; counts and seconds are since the worker's start."""

    loaded: bool = False
    """Whether its model is in memory."""
    error: str | None = None
    """Why its model is not, where a load failed."""
    model: str = ""
    fingerprint: str | None = None
    """The digest of the model's weights, once it is known."""
    in_hand: int = 0
    """Jobs leased now."""
    fetching: int = 0
    """Jobs whose input is being fetched now."""
    max_batch: int = 0
    batch_seconds: float = 0.0
    """What a batch takes of late; 0 before the first."""
    batches: dict[str, int] = field(default_factory=dict)
    """Batches that ran, by their size, which JSON has as text."""
    stages: dict[str, StageTime] = field(default_factory=dict)
    decode_beside_seconds: float = 0.0
    """How much of the decoding went on while the device ran a batch."""
    jobs: int = 0
    """Jobs that ran."""
    room: float = 0.0
    """Jobs that as many full batches would have held."""
    cost: float = 0.0
    padded_cost: float = 0.0
    """In the model's unit: what ran, and what it came to padded to one length a batch."""

    @property
    def settled(self) -> bool:
        """Whether its model is loaded, or known not to load."""
        return self.loaded or self.error is not None

    @property
    def batch_count(self) -> int:
        """Batches that ran."""
        return sum(self.batches.values())

    @property
    def batched_jobs(self) -> int:
        """Jobs that ran in them."""
        return sum(int(size) * count for size, count in self.batches.items())


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model in memory."""

    memory_mb: float = 0.0
    load_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """Results written into the cache, and those that could not be."""

    stored: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker process."""

    worker: str
    """Its Celery node name."""
    pid: int = 0
    round: int = 0
    """Which of its reports this is, from 1; two rounds after an event every field knows of it."""
    device: str = ""
    started_at: float = 0.0
    """Unix seconds."""
    on_the_bus: bool = False
    """Whether Celery's remote control reaches it."""
    loading: str | None = None
    """The model that is being loaded or warmed up."""
    finished: int = 0
    """Results that it published."""
    fenced: int = 0
    """Results of leases that were another's by then."""
    cache: CacheCounts = field(default_factory=CacheCounts)
    switches: int = 0
    """How often the device went from one lane to another."""
    device_time: DeviceTimes | None = None
    """None of a worker too old to tell."""
    lanes: dict[str, LaneReport] = field(default_factory=dict)
    models: dict[str, ModelReport] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether it is up, with every model loaded or known not to load."""
        return self.on_the_bus and all(lane.settled for lane in self.lanes.values())

    def dump(self) -> bytes:
        """As JSON."""
        return orjson.dumps(self)

    def as_dict(self) -> dict[str, Any]:
        """As plain values that JSON can carry."""
        return asdict(self)

    @classmethod
    def load(cls, text: bytes) -> WorkerReport:
        """Read what `dump` wrote, here or in another version."""
        return cls.of(orjson.loads(text))

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> WorkerReport:
        """Read one that was parsed, as the Python client returns it."""
        times = found.get("device_time")
        return _known(
            cls,
            found,
            cache=_known(CacheCounts, found.get("cache") or {}),
            device_time=None if times is None else _known(DeviceTimes, times),
            lanes={name: _lane(lane) for name, lane in (found.get("lanes") or {}).items()},
            models={
                name: _known(ModelReport, one) for name, one in (found.get("models") or {}).items()
            },
        )


def _lane(found: Mapping[str, Any]) -> LaneReport:
    stages = found.get("stages") or {}
    return _known(
        LaneReport, found, stages={name: _known(StageTime, one) for name, one in stages.items()}
    )


def _known(kind: type[T], found: Mapping[str, Any], **replaced: Any) -> T:
    """One of this dataclass, of the fields that it knows."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    return kind(**{**{name: found[name] for name in names & found.keys()}, **replaced})

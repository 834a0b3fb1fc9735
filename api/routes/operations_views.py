"""The views for operators: models, lanes, breakers, readiness."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.http.timestamps import moment
from api.overload.breaker import Record, State
from api.overload.lane_state import LaneState
from common.catalog import ModelSpec, Target
from common.redis.keys import BANDS
from common.worker_report import LaneReport, WorkerReport


class ModelView(BaseModel):
    """A model, or an alias and the model it points at, as clients see it."""

    name: str
    id: str = Field(description="The name again, as OpenAI's clients look for it.")
    object: Literal["model"] = "model"
    created: int = Field(0, description="For OpenAI's clients; not recorded.")
    owned_by: str = "lanefleet"
    alias_of: str | None = Field(None, description="The model that this alias points at now.")
    shares: dict[str, float] = Field(
        default_factory=dict,
        description="By model, the share of its jobs, of an alias that several share.",
    )
    sticky: bool = Field(False, description="Whether a tenant's jobs all go to one of these.")
    shadow: str | None = Field(None, description="The model that answers its jobs too, unseen.")
    input: str
    task: str | None = Field(None, description="The task-shaped route that serves it.")
    description: str
    version: str
    weights: str
    precision: str
    max_batch: int
    cache_seconds: int = Field(
        description="How long a result is given again for the same input; 0 is never."
    )
    loaded_by: list[str] = Field(description="Workers that have it in memory now, warmed up.")
    errors: dict[str, str] = Field(description="Workers that could not load it, and why.")
    warnings: dict[str, str] = Field(
        default_factory=dict,
        description="Workers on which its precision or backend is no gain, or not known to be "
        "right, and why.",
    )

    @classmethod
    def of(
        cls, name: str, spec: ModelSpec, workers: list[WorkerReport], target: Target | None = None
    ) -> ModelView:
        """The view of a catalog entry, with the live workers' reports of it; target is what an
        alias points at.
        """
        shared = target if target is not None and target.is_split else None
        lanes = {report.worker: report.lanes[name] for report in workers if name in report.lanes}
        return cls(
            name=name,
            id=name,
            task=spec.task,
            alias_of=spec.name if spec.name != name else None,
            shares={} if shared is None else {n: round(s, 6) for n, s in shared.shares.items()},
            sticky=shared is not None and shared.sticky,
            shadow=spec.shadow,
            input=spec.input,
            description=spec.description,
            version=spec.version,
            weights=spec.weights,
            precision=spec.precision,
            max_batch=spec.max_batch,
            cache_seconds=spec.keeps_results_seconds,
            loaded_by=[
                worker for worker, lane in lanes.items() if lane.loaded and lane.model == spec.name
            ],
            errors={worker: said for worker, lane in lanes.items() if (said := _errors(lane))},
            warnings={worker: lane.warning for worker, lane in lanes.items() if lane.warning},
        )


def _errors(lane: LaneReport) -> str:
    missing = [f"{model}: {why}" for model, why in lane.missing.items()]
    return "; ".join([*([lane.error] if lane.error else []), *missing])


class BreakerView(BaseModel):
    """Whether a model's jobs are refused because it fails."""

    state: State
    since: datetime | None = Field(None, description="When it came into this state.")
    until: datetime | None = Field(None, description="When it is probed, or probed again.")
    openings: int = Field(0, description="Times in a row that it opened.")
    tenants: dict[str, BreakerView] = Field(
        default_factory=dict,
        description="Tenants whose own jobs are refused because they fail.",
    )

    @classmethod
    def closed(cls) -> BreakerView:
        """The view of one that refuses nothing."""
        return cls(state=State.CLOSED)

    @classmethod
    def of(cls, record: Record, tenants: Mapping[str, Record] | None = None) -> BreakerView:
        """The view of a record, with those of tenants."""
        return cls(
            state=record.state,
            since=moment(record.since_ms or None),
            until=moment(record.until_ms or None),
            openings=record.openings,
            tenants={name: cls.of(one) for name, one in (tenants or {}).items()},
        )


class LaneView(BaseModel):
    """A lane: what it needs, what waits, what became of the rest, how fast it drains."""

    model_config = ConfigDict(extra="allow")

    demand: int = Field(
        description="Jobs that workers are needed for: waiting, leased, and delayed ones that fall "
        "due within the cold start."
    )
    waiting: int = Field(description="Jobs that wait, beside the bands as well.")
    bands: dict[str, int] = Field(description="The same by priority band: 0, 3, 6, 9.")
    beside: int = Field(
        description="How many of these wait beside the bands, for their tenant's turn."
    )
    leased: int
    delayed: int
    due: int = Field(description="How many of the delayed ones fall due within the cold start.")
    dead: int = Field(description="Dead letters.")
    oldest_age_seconds: float = Field(
        description="How long the oldest of the jobs that are served next has waited."
    )
    drain_jobs_per_second: float | None = Field(
        description="Jobs per second that its workers run; null while unknown."
    )
    drain_seconds: float | None = Field(
        description="Seconds until the demand is worked off; null while unknown."
    )
    cold_start_seconds: float = Field(description="Seconds from demand to a worker that serves it.")
    workers: int = Field(description="Live workers that can serve it.")
    breaker: BreakerView
    abandoned: bool = Field(
        False, description="Whether it is neither in the catalog nor served by a live worker."
    )

    @classmethod
    def of(cls, state: LaneState, breaker: BreakerView, *, abandoned: bool = False) -> LaneView:
        """The view of a lane in a sample; its counters become fields too."""
        counters = {n: count for n, count in state.counters.items() if n not in cls.model_fields}
        return cls(
            **counters,
            demand=state.demand,
            waiting=sum(state.waiting),
            beside=state.beside,
            leased=state.leased,
            delayed=state.delayed,
            dead=state.dead,
            bands={str(band): n for band, n in zip(BANDS, state.waiting, strict=True)},
            due=state.due,
            oldest_age_seconds=state.oldest_age_seconds,
            drain_jobs_per_second=state.per_second,
            drain_seconds=state.drain_seconds,
            cold_start_seconds=state.cold_start_seconds,
            workers=state.workers,
            breaker=breaker,
            abandoned=abandoned,
        )


class LaneList(BaseModel):
    """The lanes, and the figures that scalers read."""

    lanes: dict[str, LaneView]
    demand: dict[str, int] = Field(
        description="The demand of each lane; not of abandoned ones, which no worker would serve."
    )
    demand_total: int = Field(description="Their sum.")


class Dropped(BaseModel):
    """What became of a lane that was dropped."""

    lane: str
    jobs: int = Field(description="How many messages it had; their jobs are canceled.")


class Ready(BaseModel):
    """What this process can do."""

    status: Literal["ready", "degraded"] = Field(
        description="Degraded: reads and cached results are served, new work is refused."
    )
    queue: Literal["ok", "queue_full", "queue_unavailable"] = Field(
        description="Whether the queue takes work."
    )
    workers: list[str] = Field(description="Live workers.")
    lanes_without_worker: list[str] = Field(description="Lanes whose jobs wait for a worker.")
    lanes_abandoned: list[str] = Field(
        description="Lanes that hold jobs, are not in the catalog, and have no worker."
    )
    models_unavailable: list[str] = Field(description="Lanes whose circuit breaker is not closed.")
    warnings: list[str] = Field(
        description="What an operator should see to: of the queue's Redis, and of workers that a "
        "model holds; nothing is refused."
    )


class AliasTarget(BaseModel):
    """Where an alias should point."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="A model of the catalog.", examples=["minilm"])
    share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="The share of the alias' jobs that it gets; the models that have them now keep "
        "the rest, in proportion. 1 is all of them, 0 takes it out.",
    )
    sticky: bool | None = Field(
        None,
        description="Whether a tenant's jobs all go to one model; unset leaves that as it is.",
    )


class Purged(BaseModel):
    """What became of a model's kept results."""

    model: str
    results: int = Field(description="How many were dropped.")


class Told(BaseModel):
    """What became of a request to the workers."""

    model: str
    workers: int = Field(description="Workers that heard it; what they do of it, /v1/models says.")


class OpenAIModel(BaseModel):
    """A model as OpenAI's clients list it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "lanefleet"


class ModelList(BaseModel):
    """All models of this fleet."""

    models: list[ModelView]
    object: Literal["list"] = "list"
    data: list[OpenAIModel] = Field(description="The names once more, for OpenAI's clients.")

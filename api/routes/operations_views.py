"""The views for operators: models, lanes, breakers, readiness."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.http.timestamps import moment
from api.overload.breaker import Record, State
from common.catalog import ModelSpec
from common.worker_report import WorkerReport


class ModelView(BaseModel):
    """A model, or an alias and the model it points at, as clients see it."""

    name: str
    id: str = Field(description="The name again, as OpenAI's clients look for it.")
    object: Literal["model"] = "model"
    created: int = Field(0, description="For OpenAI's clients; not recorded.")
    owned_by: str = "lanefleet"
    alias_of: str | None = Field(None, description="The model that this alias points at now.")
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

    @classmethod
    def of(cls, name: str, spec: ModelSpec, workers: list[WorkerReport]) -> ModelView:
        """The view of a catalog entry, with the live workers' reports of it."""
        lanes = {report.worker: report.lanes[name] for report in workers if name in report.lanes}
        return cls(
            name=name,
            id=name,
            task=spec.task,
            alias_of=spec.name if spec.name != name else None,
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
            errors={worker: lane.error for worker, lane in lanes.items() if lane.error},
        )


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
    """A lane: what waits, what became of the rest, how fast it drains."""

    model_config = ConfigDict(extra="allow")

    waiting: int
    leased: int
    delayed: int
    dead: int
    workers: int = Field(description="Live workers that can serve it.")
    per_second: float | None = Field(
        description="Jobs per second that it drains; null while unknown."
    )
    breaker: BreakerView
    abandoned: bool = Field(
        False, description="Whether it is neither in the catalog nor served by a live worker."
    )


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

"""What requests and answers look like; pydantic only here, at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.cache.result_cache import Hit
from api.jobs.links import job_links, open_links
from api.overload.breaker import Record, State
from common.catalog import ModelSpec
from common.jobs.record import JobRecord, JobState
from common.worker_report import WorkerReport

MAX_DEADLINE_SECONDS = 7 * 86_400


MISSING: Any = object()
"""In place of an `input` that was not sent; null is an input like another."""


def _input_or_url(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"required": ["input"]}, {"required": ["input_url"]}]


def _whole(value: object) -> object:
    """JSON knows one kind of number: 1.0 is an integer there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class JobRequest(BaseModel):
    """A job as JSON; validate strictly, but a form's fields, which are all strings."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_input_or_url)

    model: str = Field(description="A name from /v1/models.", examples=["minilm"])
    input: Any = Field(
        default_factory=lambda: MISSING,
        description='A string for text models, {"image": "<base64>"} for image models, '
        "any JSON for others.",
        examples=["The quick brown fox."],
    )
    input_url: str | None = Field(
        None,
        description="Instead of `input`: an http(s) URL from which a worker fetches it. No "
        "redirects, no user name, and only the public internet unless the operator allows more.",
        examples=["https://example.com/photo.jpg"],
    )
    params: dict[str, Any] = Field(default_factory=dict, description="What the model itself takes.")
    priority: Annotated[int, BeforeValidator(_whole)] = Field(
        0, ge=0, le=9, description="0 is served first, 9 last."
    )
    cache: bool = Field(
        True,
        description="false: run it, whatever is kept for the same input, and keep nothing of it.",
    )
    deadline: float | None = Field(
        None,
        gt=0,
        le=MAX_DEADLINE_SECONDS,
        description="Seconds from now after which no result may be published; the job expires.",
    )
    start_within: float | None = Field(
        None,
        gt=0,
        le=MAX_DEADLINE_SECONDS,
        description="Seconds from now after which the job must not start; it expires instead.",
    )


class Links(BaseModel):
    """Where to go next; a link that is absent would not work now."""

    self: str
    result: str
    events: str
    cancel: str | None = None
    retry: str | None = None


class JobFailure(BaseModel):
    """Why a job did not succeed."""

    reason: str = Field(description="Stable and machine-readable.")
    message: str = Field(description="One sentence for people.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting job stands in its lane."""

    ahead: int
    """Jobs that will be served before it, about."""
    start_ms: int | None
    """When it should start, Unix ms; None while the lane's pace is not known."""


class JobView(BaseModel):
    """A job as clients see it."""

    id: str
    model: str
    state: JobState
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    queue_position: int | None = Field(
        None, description="While queued: about how many jobs will be served before it."
    )
    estimated_start_at: datetime | None = Field(
        None, description="While queued: when it should start at the pace of the last seconds."
    )
    batch_size: int | None = Field(None, description="Jobs that ran in the same batch.")
    infer_ms: float | None = Field(None, description="How long that batch ran on the device.")
    worker: str | None = None
    version: str | None = Field(None, description="Version of the model that ran it.")
    cached: bool | None = Field(
        None, description="true where the result was kept from an earlier job."
    )
    age: int | None = Field(None, description="How old a kept result was, in seconds.")
    shared: bool | None = Field(
        None, description="true where an identical job that was under way ran for this one."
    )
    result: Any = None
    error: JobFailure | None = None
    notice: str | None = Field(None, description="What to know of a job that waits.")
    links: Links

    @classmethod
    def of(
        cls, record: JobRecord, place: Place | None = None, notice: str | None = None
    ) -> JobView:
        """The view of a record."""
        failure = None
        if record.reason:
            failure = JobFailure(reason=record.reason, message=record.error or record.reason)
        return cls(
            id=record.id,
            model=record.lane,
            state=record.state,
            created_at=_moment(record.created_ms),
            started_at=_moment(record.started_ms),
            finished_at=_moment(record.finished_ms),
            attempts=record.attempts,
            queue_position=place.ahead if place else None,
            estimated_start_at=_moment(place.start_ms) if place else None,
            batch_size=record.batch_size,
            infer_ms=record.infer_ms,
            worker=record.worker,
            version=record.version,
            cached=record.cached or None,
            age=record.age_seconds,
            shared=record.shared or None,
            result=record.result,
            error=failure,
            notice=notice,
            links=Links(**job_links(record.id, record.state, record.reason)),
        )


class ListLinks(BaseModel):
    """Where the list goes on."""

    next: str | None = None


class JobList(BaseModel):
    """One page of jobs."""

    jobs: list[JobView]
    next_cursor: str | None = Field(None, description="Absent on the last page.")
    links: ListLinks


def view_json(record: JobRecord, place: Place | None = None, notice: str | None = None) -> bytes:
    """The view of a record as JSON, less what is not known of it.

    By hand, as pydantic takes five times as long, and twice for a vector of 384 numbers; a test
    holds it to what pydantic writes.
    """
    view = {
        "id": record.id,
        "model": record.lane,
        "state": record.state,
        "created_at": _moment(record.created_ms),
        "started_at": _moment(record.started_ms),
        "finished_at": _moment(record.finished_ms),
        "attempts": record.attempts,
        "queue_position": place.ahead if place else None,
        "estimated_start_at": _moment(place.start_ms) if place else None,
        "batch_size": record.batch_size,
        "infer_ms": record.infer_ms,
        "worker": record.worker,
        "version": record.version,
        "cached": record.cached or None,
        "age": record.age_seconds,
        "shared": record.shared or None,
        "result": record.result,
        "notice": notice,
        "links": job_links(record.id, record.state, record.reason),
    }
    known = {name: value for name, value in view.items() if value is not None}
    if record.reason:
        links = known.pop("links")
        known["error"] = {"reason": record.reason, "message": record.error or record.reason}
        known["links"] = links
    try:
        return orjson.dumps(known, option=orjson.OPT_UTC_Z)
    except TypeError:  # a number beyond 64 bits, which another Celery worker may have stored
        return JobView.of(record, place, notice).model_dump_json(exclude_none=True).encode()


def queued_json(record: JobRecord, notice: str | None = None) -> bytes:
    """The same for a job queued just now, whose few fields need no 17 us of pydantic."""
    view = {
        "id": record.id,
        "model": record.lane,
        "state": record.state,
        "created_at": _moment(record.created_ms),
        "attempts": record.attempts,
        "links": open_links(record.id),
    }
    if notice:
        view["notice"] = notice
    return orjson.dumps(view, option=orjson.OPT_UTC_Z)


def hit_json(hit: Hit) -> bytes:
    """The view of a job that was answered from the cache; its result is not even parsed."""
    moment = _moment(hit.at_ms)
    view = {
        "id": hit.job_id,
        "model": hit.lane,
        "state": JobState.SUCCEEDED,
        "created_at": moment,
        "finished_at": moment,
        "attempts": 0,
        "version": hit.entry.version,
        "cached": True,
        "age": hit.age_seconds,
    }
    links = job_links(hit.job_id, JobState.SUCCEEDED, None)
    head = orjson.dumps(view, option=orjson.OPT_UTC_Z)[:-1]
    return b'%b,"result":%b,"links":%b}' % (head, hit.entry.result, orjson.dumps(links))


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
        """The view of a catalog entry and what the live workers say of it."""
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

    @classmethod
    def of(cls, record: Record) -> BreakerView:
        """The view of a record."""
        return cls(
            state=record.state,
            since=_moment(record.since_ms or None),
            until=_moment(record.until_ms or None),
            openings=record.openings,
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
    models_unavailable: list[str] = Field(description="Lanes whose circuit breaker is not closed.")


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


def _moment(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC)

"""Types of the API's responses. Jobs are plain dicts, as received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Required, TypedDict

__all__ = (
    "TERMINAL",
    "Event",
    "Failure",
    "Generation",
    "Job",
    "JobPage",
    "Links",
    "State",
    "Token",
    "Usage",
)

State = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "canceled", "expired"})
"""The final states."""


class Failure(TypedDict):
    """Why a job did not succeed."""

    reason: str
    message: str


class Links(TypedDict, total=False):
    """The possible next requests, as paths."""

    self: str
    result: str
    events: str
    cancel: str
    retry: str


class Job(TypedDict, total=False):
    """A job as the API returns it; unknown fields are absent."""

    id: Required[str]
    model: Required[str]
    state: Required[State]
    created_at: str
    started_at: str
    finished_at: str
    attempts: int
    queue_position: int
    estimated_start_at: str
    batch_size: int
    infer_ms: float
    worker: str
    version: str
    computed_by: str
    """Backend, precision and weights digest of the model that ran it, where it names them."""
    cached: bool
    age: int
    shared: bool
    notice: str
    labels: dict[str, str]
    """Of a job that was asked for by its id, or listed."""
    result: Any
    error: Failure
    links: Links
    index: NotRequired[int]
    """The index of its input in `map`, from 0."""


class JobPage(TypedDict, total=False):
    """Some of the jobs, without results."""

    jobs: Required[list[Job]]
    next_cursor: str
    """Where the next page begins; absent on the last."""


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a job: the state it entered, and the job at that step."""

    id: str
    state: str
    job: Job


@dataclass(frozen=True, slots=True)
class Token:
    """What a job says next: most often the text of one token, at times of none or of several."""

    id: str
    """Of the event, from which reading can go on."""
    text: str
    choice: int
    """The number of the answer, from 0, where `n` are asked for."""
    tokens: list[int]
    """Their ids; none where the text is taken from a result."""
    finish_reason: str | None = None
    logprobs: list[dict[str, Any]] | None = None


class Usage(TypedDict):
    """Tokens as the model counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Generation(TypedDict, total=False):
    """A text, as `POST /v1/generate` answers it."""

    generated_text: Required[str]
    inference_time: Required[float]
    model_version: Required[str | None]
    request_id: Required[str]
    """The job."""
    finish_reason: str
    usage: Usage
    seed: int
    choices: list[dict[str, Any]]
    """All answers, where `n` is more than one or `logprobs` are asked for."""
    cached: bool

"""The responses of the task-shaped routes, and their examples; for the OpenAPI document.

Responses are written by hand, as a batch of embeddings is a million numbers that pydantic would
validate one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from api.http.bodies import RAW_BODIES
from api.inference.task_run import Outcome
from api.jobs.request import JobRequest
from api.jobs.request_body import RAW_PARAMETERS
from api.jobs.views import JobFailure
from common.errors import FleetError
from common.jobs.record import JobRecord, JobState

EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAANUlEQVR42mNg4BCQUNAwsHDwCIhIyCioaOiY"
    "MGPBig07Dpy4cOPBiw8/GEYVjCoYVTBSFQAAl2zwEJjgKNwAAAAASUVORK5CYII="
)
"""A grey ramp of 32 x 32, small enough for a document."""


class TaskItem(BaseModel):
    """What became of one input; a job like any other, under its id."""

    id: str | None = Field(None, description="The job, for `/v1/jobs/{id}`; absent if refused.")
    state: JobState | None = Field(None, description="Absent if the input was refused.")
    error: JobFailure | None = Field(None, description="Why there is no result.")
    cached: bool | None = Field(None, description="True where the result was kept from before.")


class EmbedItem(TaskItem):
    """One input's vector."""

    embedding: list[float] | None = None
    dimensions: int | None = None
    tokens: int | None = Field(None, description="Tokens the model read of it.")
    truncated: bool | None = Field(None, description="Whether there were more than it reads.")


class EmbedAnswer(BaseModel):
    """One item per input, in order."""

    model: str
    results: list[EmbedItem]


class Label(BaseModel):
    """One class and how sure the model is of it."""

    label: str
    score: float


class ClassifyItem(TaskItem):
    """One input's labels, the likeliest first."""

    labels: list[Label] | None = None


class ClassifyAnswer(BaseModel):
    """One item per input, in order."""

    model: str
    results: list[ClassifyItem]


class Box(BaseModel):
    """One thing found, in pixels of the upright picture."""

    polygon: list[list[float]] | None = Field(
        None, description="Of text: four corners, clockwise from the top left."
    )
    box: list[float] | None = Field(None, description="Of a thing: left, top, right, bottom.")
    label: str | None = Field(None, description="What the thing is.")
    score: float


class DetectItem(TaskItem):
    """What was found in one picture."""

    boxes: list[Box] | None = None
    width: int | None = None
    height: int | None = None
    scale: float | None = Field(None, description="Pixels looked at per pixel of the picture.")
    tiles: int | None = Field(None, description="Parts in which a long picture was looked at.")


class DetectAnswer(BaseModel):
    """One item per input, in order."""

    model: str
    results: list[DetectItem]


def answer_json(model: str, outcomes: Sequence[Outcome]) -> bytes:
    """The answer as JSON."""
    return orjson.dumps({"model": model, "results": [_item(one) for one in outcomes]})


def _item(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, FleetError):
        return {"error": {"reason": outcome.code, "message": str(outcome)}}
    item: dict[str, Any] = {"id": outcome.id, "state": outcome.state}
    if outcome.cached:
        item["cached"] = True
    if outcome.reason:
        item["error"] = {"reason": outcome.reason, "message": outcome.error or outcome.reason}
    if outcome.state is JobState.SUCCEEDED:
        item.update(_result(outcome))
    return item


def _result(record: JobRecord) -> dict[str, Any]:
    """The model's own fields beside ours; of a model that answers no object, as `result`."""
    result = record.value
    if not isinstance(result, dict):
        return {"result": result}
    return {name: value for name, value in result.items() if name not in _OURS}


_OURS = ("id", "state", "error", "cached")


def request_body(task_input: str, examples: dict[str, Any]) -> dict[str, Any]:
    """The request as OpenAPI: JobRequest with the model optional, and the ways to send files."""
    schema = JobRequest.model_json_schema()
    properties = {**schema["properties"], "input": {"description": task_input}}
    properties["model"] = {
        "type": ["string", "null"],
        "description": "A name from /v1/models whose `task` is this one; needed only where the "
        "catalog has several and no default.",
    }
    url = properties["input_url"]
    either = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    properties["input_url"] = {
        "anyOf": either,
        "description": url["description"] + " A list is as many inputs.",
    }
    asked = {**schema, "title": "TaskRequest", "properties": properties, "required": []}
    content = {
        "application/json": {"schema": asked, "examples": examples},
        "multipart/form-data": {"schema": _form_schema()},
        **RAW_BODIES,
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": RAW_PARAMETERS}


def _form_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "model": {"type": "string"},
            "params": {"type": "string", "description": "A JSON object."},
            "priority": {"type": "integer", "minimum": 0, "maximum": 9},
            "deadline": {"type": "number"},
            "start_within": {"type": "number"},
        },
    }

"""What `/v1/generate` and `/v1/batch-generate` take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from api.jobs.request import JobRequest
from api.jobs.views import JobFailure
from common.generation.options import GenerateOptions
from common.jobs.record import JobState


class Usage(BaseModel):
    """Tokens as the model counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerateAnswer(BaseModel):
    """One generation."""

    generated_text: str
    inference_time: float = Field(description="Seconds that it ran.")
    model_version: str | None
    request_id: str = Field(description="The job, for `/v1/jobs/{id}`.")
    finish_reason: str = Field(description="stop, length or deadline.")
    usage: Usage
    seed: int | None = Field(None, description="The one it was drawn with: the same text again.")
    choices: list[dict[str, Any]] | None = Field(
        None, description="All answers, where `n` is more than one or `logprobs` are asked for."
    )
    cached: bool | None = Field(None, description="true where it was kept from an earlier job.")


class BatchGenerateItem(BaseModel):
    """One of several generations: its answer, or why there is none."""

    generated_text: str | None = None
    inference_time: float | None = None
    model_version: str | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    state: JobState | None = Field(None, description="Of one that is not done yet.")
    error: JobFailure | None = None


class BatchGenerateAnswer(BaseModel):
    """One item per request, in order."""

    results: list[BatchGenerateItem]
    batch_id: str
    processed_count: int = Field(description="How many have a text.")


ONE_STOP = {"type": "string", "minLength": 1, "maxLength": 256}


def generate_schema() -> dict[str, Any]:
    """The body of `/v1/generate`."""
    options = dict(GenerateOptions.model_json_schema()["properties"])
    most = {
        **options.pop("max_tokens"),
        "description": "Most new tokens; `max_tokens` is the same.",
    }
    stop = {"anyOf": [ONE_STOP, options["stop"]], "description": "Ends the text."}
    job = JobRequest.model_json_schema()["properties"]
    names = ("priority", "deadline", "start_within", "cache", "labels", "webhook")
    return {
        "type": "object",
        "title": "GenerateRequest",
        "required": ["text"],
        "additionalProperties": False,
        "not": {"required": ["max_length", "max_tokens"]},
        "properties": {
            "text": {"type": "string", "description": "The prompt."},
            "model": {
                "type": ["string", "null"],
                "description": "A name from /v1/models whose `task` is generate; needed only where "
                "the catalog has several and no default.",
            },
            "max_length": {**most, "title": "Max Length"},
            "max_tokens": {**most, "title": "Max Tokens"},
            **options,
            "stop": stop,
            **{name: job[name] for name in names},
        },
    }


def json_body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    """A body of JSON, as OpenAPI has it."""
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}

"""A job as requested; pydantic only here, at the edge."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from api.http.request_errors import InvalidRequest

MAX_DEADLINE_SECONDS = 7 * 86_400


MAX_LABELS = 8
_LABEL = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_LABEL_SCHEMA = {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,64}$"}
MISSING: Any = object()
"""Marks an absent `input`; null is a valid input."""


def _input_or_url(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"required": ["input"]}, {"required": ["input_url"]}]


def whole(value: object) -> object:
    """JSON has one type of number: 1.0 is an integer there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels as they are; raises ValueError, which numbers the first that is none."""
    if len(labels) > MAX_LABELS:
        raise ValueError(f"a job has at most {MAX_LABELS} labels, not {len(labels)}")
    for number, (name, value) in enumerate(labels.items(), 1):
        if not (_LABEL.fullmatch(name) and _LABEL.fullmatch(value)):
            raise ValueError(
                f"label {number}: a name and a value have 1 to 64 letters, digits and _ . : / -"
            )
    return labels


Labels = (
    Annotated[
        dict[str, str],
        AfterValidator(check_labels),
        WithJsonSchema(
            {
                "type": "object",
                "maxProperties": MAX_LABELS,
                "propertyNames": _LABEL_SCHEMA,
                "additionalProperties": _LABEL_SCHEMA,
            }
        ),
    ]
    | None
)


class JobRequest(BaseModel):
    """A job as JSON; validate strictly, but a form's fields, which are all strings."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_input_or_url)

    model: str = Field(description="A name from /v1/models.", examples=["minilm"])
    input: Any = Field(
        default_factory=lambda: MISSING,
        description='A string for text models, {"image": "<base64>"} for image models, '
        '{"audio": "<base64>"} for audio models, any JSON for others.',
        examples=["The quick brown fox."],
    )
    input_url: str | None = Field(
        None,
        description="Instead of `input`: an http(s) URL from which a worker fetches it. No "
        "redirects, no user name, and only the public internet unless the operator allows more.",
        examples=["https://example.com/photo.jpg"],
    )
    webhook: str | None = Field(
        None,
        max_length=4096,
        description="Who is told of the job's end: an http(s) URL, or the id of an endpoint from "
        "/v1/webhooks.",
        examples=["https://example.com/hooks"],
    )
    params: dict[str, Any] = Field(default_factory=dict, description="What the model itself takes.")
    priority: Annotated[int, BeforeValidator(whole)] = Field(
        0, ge=0, le=9, description="0 is served first, 9 last."
    )
    labels: Labels = Field(
        None,
        description="Short pairs by which to find, cancel and retry these jobs, such as "
        '{"run": "42"}: at most 8; letters, digits and _ . : / -, at most 64 of them.',
        examples=[{"run": "42"}],
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


def job_request(document: Any, *, strict: bool = True) -> JobRequest:
    """Validate the document as a job; raises InvalidRequest, which names the field.

    With strict, numbers are not accepted as strings, nor booleans as numbers; the fields of a
    form are strings.
    """
    if not isinstance(document, dict):
        raise InvalidRequest('send an object such as {"model": ..., "input": ...}')
    try:
        return JobRequest.model_validate(document, strict=strict)
    except ValidationError as exc:
        raise invalid(exc) from exc


def invalid(exc: ValidationError) -> InvalidRequest:
    """The validation error as InvalidRequest; its text never contains the input."""
    return InvalidRequest.of(exc.errors(include_url=False, include_input=False))

"""Errors of requests, independent of HTTP; problems.py maps each to its status.

RequestError
├── InvalidRequest            a field is missing or invalid, or there are too many
│   ├── TooManyInputs
│   ├── ModelRequired         the task has several models and no default
│   ├── WrongTask             the model is not for this task
│   ├── TokensNotTaken
│   ├── UnsupportedDimensions
│   ├── InvalidCursor
│   └── IdempotencyKeyReused  the key was used with another body
├── InvalidIdempotencyKey
├── Unauthorized              no API key, or an invalid one
├── Forbidden                 the key lacks the scope
├── TooManyWaiting            the tenant has as many requests waiting as it may
└── WrongResult               the model's results have another shape than its task's
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.errors import FleetError

_MOST_ERRORS = 20


class RequestError(FleetError):
    """Base: `extra` are further fields of the problem document."""

    code = "invalid_request"

    def __init__(self, text: str, **extra: Any) -> None:
        super().__init__(text)
        self.extra = extra


class InvalidRequest(RequestError):
    """The request can never succeed unchanged; the message names the field."""

    @classmethod
    def of(cls, errors: Sequence[Any]) -> InvalidRequest:
        """From pydantic's errors: one sentence for the first error, and the first by field."""
        fields = [
            {
                "field": ".".join(str(part) for part in error["loc"] if part != "body"),
                "message": error["msg"],
            }
            for error in errors[:_MOST_ERRORS]
        ]
        first = fields[0]
        where = f"`{first['field']}`: " if first["field"] else ""
        more = {"more_errors": len(errors) - len(fields)} if len(errors) > len(fields) else {}
        return cls(f"{where}{first['message']}", errors=fields, **more)


class TooManyInputs(InvalidRequest):
    """More inputs than one request may have."""

    code = "too_many_inputs"


class ModelRequired(InvalidRequest):
    """The task has several models and no default."""

    code = "model_required"


class WrongTask(InvalidRequest):
    """The model is for another task."""

    code = "wrong_task"


class TokensNotTaken(InvalidRequest):
    """Token ids instead of text."""

    code = "tokens_not_taken"


class UnsupportedDimensions(InvalidRequest):
    """A length that the model's vectors cannot be cut to."""

    code = "unsupported_dimensions"


class InvalidCursor(InvalidRequest):
    """Not a cursor of an earlier page."""

    code = "invalid_cursor"


class IdempotencyKeyReused(InvalidRequest):
    """The key was sent before with another body."""

    code = "idempotency_key_reused"


class InvalidIdempotencyKey(RequestError):
    """The key is empty, too long, or not printable ASCII."""

    code = "invalid_idempotency_key"


class Unauthorized(RequestError):
    """No API key was sent, or an invalid one."""

    code = "unauthorized"

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent
        """Whether a key was sent."""


class Forbidden(RequestError):
    """The API key was not granted this scope."""

    code = "forbidden"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this API key was not granted the scope `{scope}`", scope=scope)
        self.scope = scope


class TooManyWaiting(RequestError):
    """The tenant has as many requests or streams waiting in this process as it may."""

    code = "too_many_waiting"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"this tenant has {most} requests waiting here already; wait for some of them, or "
            "collect many jobs with POST /v1/jobs/results"
        )


class WrongResult(RequestError):
    """A model's results have another shape than its task's."""

    code = "wrong_result"

"""The error tree. Each class carries its consequence for the job or the process.

FleetError
├── ConfigurationError        the process cannot start as configured (exit 2)
│   └── RedisUnavailable      no Redis can be found or started
├── InvalidInput              the input is at fault; never retried
│   ├── UnknownModel          the catalog has no such model
│   ├── PromptTooLong         more tokens than the model's context holds
│   ├── UnsupportedMedia      an image format that the fleet cannot read
│   ├── InputTooLarge         more bytes or pixels than allowed
│   └── UrlRefused            a URL that this fleet does not connect to
│       ├── InputUrlRefused   the same, for the URL of an input
│       └── WebhookRefused    the same, for a webhook's
├── InputUrlFailed            no input could be fetched from its URL, retries included
├── InputStoreUnavailable     the store of large inputs cannot be reached; try later
├── DecodeTimedOut            its input took too long to decode; never retried
├── EncodeTimedOut            its output took too long to encode; never retried
├── MessageTooLarge           its beginning is on the dead list, where Redis had it
├── UnreadableMessage         not a job; moved to the dead list unchanged
├── InferenceFailed           the model raised; retried alone, then dead
│   ├── DeviceOutOfMemory     the batch did not fit; a smaller one may
│   ├── InferTimedOut         the model did not come back; its process ended
│   ├── ServerFailed          the model's server did not answer, or broke off
│   ├── ServerRefused         the model's server takes none of our requests; not retried
│   ├── AnswerLost            half an answer was streamed and has no other half; not retried
│   └── WrongOutputs          not what a model must return; not retried
├── TimeLimitExceeded         its run took longer than its sender allowed
│   └── SoftTimeLimitExceeded the same, of Celery's softer limit
├── MessageLost               somebody took the job's message from its lane
├── AttemptsExhausted         the job took its worker down, or failed, too often
├── JobCanceled               somebody asked for it
├── JobExpired                its deadline passed first
└── Refused                   nothing was queued; the same request may be taken later
    ├── LaneFull              the lane's backlog is at its bound
    ├── RateLimited           the tenant exceeds its rate
    ├── QuotaExceeded         the tenant is at its limit of jobs in flight
    ├── DeadlineUnreachable   the job would start too late
    ├── NoWorker              no worker serves the model, and none will be started
    ├── ModelUnavailable      the model fails repeatedly; its breaker is open
    ├── WebhooksFull          too many webhooks wait to be delivered
    ├── QueueFull             Redis' memory is full
    └── QueueUnavailable      Redis cannot be reached, or refuses writes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


def text_of(error: BaseException | None) -> str:
    """The error's message as valid UTF-8; it may quote a client's input, and `str` may raise."""
    try:
        # Not the text's own method: `__str__` may return a subclass of str.
        return str.encode(str(error), "utf-8", "replace").decode()
    except BaseException:  # noqa: BLE001 - its `__str__` is not ours either, and may even exit
        return "what it says cannot be read"


def name_of(error: BaseException | None) -> str:
    """The name of the error's class as valid UTF-8, at most 200 characters."""
    try:
        name = type.__dict__["__name__"].__get__(type(error))
        return str.encode(str(name), "utf-8", "replace").decode()[:200]
    except BaseException:  # noqa: BLE001 - a metaclass of somebody else's
        return "an error without a name"


class FleetError(Exception):
    """Base of every error that this project raises on purpose."""

    code: ClassVar[str] = "internal_error"
    """Stable machine-readable reason, shown to clients."""
    retryable: ClassVar[bool] = False
    """Whether another attempt at the same job may succeed."""
    celery_module: ClassVar[str] = "lanefleet"
    """Where a Celery client looks for a class of this name; where it finds none it makes one."""


class ConfigurationError(FleetError):
    """The settings or the catalog cannot be used; the message says what to change."""

    code = "configuration_error"


class RedisUnavailable(ConfigurationError):
    """No Redis is configured and none could be started; the message says what to install."""

    code = "redis_unavailable"


class InvalidInput(FleetError):
    """The input can never succeed; the message says what to send instead."""

    code = "invalid_input"


class UnknownModel(InvalidInput):
    """The catalog has no model of this name."""

    code = "unknown_model"


class PromptTooLong(InvalidInput):
    """The prompt has more tokens than the model's context holds; the message says by how much."""

    code = "prompt_too_long"


class UnsupportedMedia(InvalidInput):
    """The bytes are not an image in a format that the fleet reads."""

    code = "unsupported_media"


class InputTooLarge(InvalidInput):
    """The input has more bytes or pixels than the fleet accepts."""

    code = "input_too_large"


class UrlRefused(InvalidInput):
    """The fleet does not connect to a URL of this form or address."""

    code = "url_refused"


class InputUrlRefused(UrlRefused):
    """The fleet does not fetch an input from a URL of this form or address."""

    code = "input_url_refused"


class WebhookRefused(UrlRefused):
    """The fleet sends no webhooks to a URL of this form or address."""

    code = "webhook_refused"


class InputUrlFailed(FleetError):
    """No input could be fetched from its URL, also by retries where these could help."""

    code = "input_url_failed"


class InputStoreUnavailable(FleetError):
    """The store of large inputs did not answer."""

    code = "input_store_unavailable"
    retryable = True


class DecodeTimedOut(FleetError):
    """The input could not be decoded in time. The job fails and is not retried."""

    code = "decode_timeout"


class EncodeTimedOut(FleetError):
    """The output could not be encoded in time. The job fails and is not retried."""

    code = "encode_timeout"


class ResultTooLarge(FleetError):
    """The job's result is larger than max_result_bytes. The job fails and is not retried."""

    code = "result_too_large"


class MessageTooLarge(FleetError):
    """The job's message is larger than max_message_bytes, or its params than max_params_bytes."""

    code = "message_too_large"


class UnreadableMessage(FleetError):
    """A lane element that is not a Celery message of this project's task."""

    code = "unreadable"


class InferenceFailed(FleetError):
    """The model raised while running this job."""

    code = "inference_failed"
    retryable = True


class DeviceOutOfMemory(InferenceFailed):
    """The batch did not fit on the device; a smaller one may."""

    code = "device_out_of_memory"


class InferTimedOut(InferenceFailed):
    """The model did not return from a run within its limit; its process was ended."""

    code = "infer_timeout"


class ServerFailed(InferenceFailed):
    """The server that runs the model could not be reached, was busy, or broke its answer off."""

    code = "server_failed"
    busy_seconds: float | None = None
    """Set where it has too many requests: when to ask again."""


class ServerRefused(InferenceFailed):
    """The server that runs the model refuses what the worker asks, whatever the job; its
    configuration or ours is wrong.
    """

    code = "server_refused"
    retryable = False


class AnswerLost(InferenceFailed):
    """The server ended amid a streamed answer, and its second answer was not the same."""

    code = "answer_lost"
    retryable = False


class WrongOutputs(InferenceFailed):
    """What the model returned is not what a model must return; the message says what is."""

    code = "wrong_outputs"
    retryable = False


class TimeLimitExceeded(FleetError):
    """The job's run took longer than the `time_limit` that its Celery client set."""

    code = "time_limit"
    celery_module = "celery.exceptions"


class SoftTimeLimitExceeded(TimeLimitExceeded):
    """The same, of its `soft_time_limit`."""


class MessageLost(FleetError):
    """The job's message is in no list any more; raised by nobody, it names what a script ends."""

    code = "message_lost"


class AttemptsExhausted(FleetError):
    """The job has used all its attempts; it is on the dead list."""

    code = "attempts_exhausted"


class JobCanceled(FleetError):
    """The job was canceled before it could publish a result."""

    code = "canceled"


class JobExpired(FleetError):
    """The job's deadline passed before it could publish a result."""

    code = "expired"


class Refused(FleetError):
    """Nothing was queued; the same request may be accepted later."""

    code = "refused"
    retryable = True
    headers: Mapping[str, str] = {}
    """More that the client is told."""
    cause: str = ""
    """Why the queue itself takes none, in a word: `authentication`, `unreachable` and others."""

    def __init__(self, text: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds
        """When to retry; None when unknown."""


class LaneFull(Refused):
    """The lane's backlog is at its bound; retry after a while."""

    code = "lane_full"


class WebhooksFull(Refused):
    """Too many webhooks wait to be delivered; retry after a while, or without one."""

    code = "webhooks_full"


class RateLimited(Refused):
    """The tenant sends jobs faster than its rate and burst allow."""

    code = "rate_limited"


class QuotaExceeded(Refused):
    """The tenant has its maximum number of jobs waiting or running."""

    code = "quota_exceeded"


class DeadlineUnreachable(Refused):
    """The backlog is so large that the job would start after its deadline."""

    code = "deadline_unreachable"


class NoWorker(Refused):
    """No live worker serves the model, and no scaler will start one."""

    code = "no_worker"


class ModelUnavailable(Refused):
    """The model failed repeatedly; its jobs are refused until it has recovered."""

    code = "model_unavailable"


class QueueFull(Refused):
    """Redis' memory is full; workers are draining it."""

    code = "queue_full"


class QueueUnavailable(Refused):
    """Redis cannot be reached, or accepts no writes."""

    code = "queue_unavailable"

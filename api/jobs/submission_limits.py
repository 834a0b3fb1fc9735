"""What bounds a submitted job and the wait for it."""

from __future__ import annotations

from dataclasses import dataclass

from api.jobs.message_size import SizeLimits
from common.settings import Settings


@dataclass(frozen=True, slots=True)
class SubmissionLimits:
    """The settings for submitted jobs."""

    inline_input_bytes: int
    default_deadline_seconds: float | None
    max_wait_seconds: float
    size: SizeLimits

    @classmethod
    def of(cls, settings: Settings) -> SubmissionLimits:
        """The limits of a process with these settings."""
        return cls(
            settings.inline_input_bytes,
            settings.default_deadline_seconds,
            settings.max_wait_seconds,
            SizeLimits(settings.max_params_bytes, settings.max_message_bytes),
        )


def after(now_ms: int, seconds: float | None) -> int | None:
    """So long after now, Unix milliseconds; None where it is not limited."""
    return None if seconds is None else now_ms + int(seconds * 1000)

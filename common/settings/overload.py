"""Overload: the refusal of work before it is queued (docs/overload.md)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from common.settings.base import Section


class OverloadSettings(Section):
    """Refusals, and the circuit breaker of each model."""

    retry_after_max_seconds: float = Field(
        60.0, ge=1, le=3600, description="Longest that a refused client is told to wait."
    )
    deadline_safety_factor: float = Field(
        2.0,
        ge=0,
        description="A job is refused when it would start too late even if its lane drained this "
        "many times faster than measured; 0 refuses none.",
    )
    scale_from_zero: bool = Field(
        True,
        description="Whether a scaler starts workers for what waits; false refuses jobs of models "
        "that no live worker serves.",
    )
    cold_start_seconds: float = Field(
        30.0,
        ge=0,
        le=86_400,
        description="How long until a worker process runs once a lane has demand: the scaler's "
        "polling, the schedule, the image. What worker and model then take is measured and added; "
        "delayed jobs that fall due within both count as demand.",
    )
    expire_jobs_per_second: int = Field(
        1_000,
        ge=0,
        le=100_000,
        description="Waiting jobs of a lane without a worker that are looked at per second for a "
        "deadline that has passed; 0 leaves them to the next worker.",
    )
    breaker_failures: int = Field(
        10,
        ge=0,
        description="Jobs that fail in a row, by the model's fault, before its jobs are refused; "
        "0 is no breaker.",
    )
    breaker_failure_share: float = Field(
        0.5, gt=0, le=1, description="Share of failed jobs in the window that does the same."
    )
    breaker_least_jobs: int = Field(
        20, ge=1, description="Jobs in the window below which their share says nothing."
    )
    breaker_window_seconds: float = Field(
        30.0, gt=0, le=3600, description="How far back that share looks."
    )
    breaker_open_seconds: float = Field(
        10.0, gt=0, description="How long jobs are refused first; doubles with each time in a row."
    )
    breaker_open_max_seconds: float = Field(
        300.0, gt=0, description="How long they are refused at most before the model is probed."
    )
    breaker_probes: int = Field(
        3, ge=1, description="Jobs let through to see whether the model works again."
    )

    @model_validator(mode="after")
    def _check_breaker(self) -> Self:
        if self.breaker_open_seconds > self.breaker_open_max_seconds:
            raise ValueError(
                f"breaker_open_seconds ({self.breaker_open_seconds}) must not exceed "
                f"breaker_open_max_seconds ({self.breaker_open_max_seconds})"
            )
        return self

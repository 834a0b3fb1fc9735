"""Jobs: leases, attempts, deadlines, and how long results are kept."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from common.settings.base import Section


class JobSettings(Section):
    """Settings of every job."""

    result_ttl_seconds: int = Field(
        86_400, ge=1, description="How long a settled job's record and result are kept."
    )
    lease_seconds: float = Field(
        30.0, ge=1, le=3600, description="How long a worker holds a job without renewing it."
    )
    renew_seconds: float | None = Field(
        None, gt=0, description="How often leases are renewed; unset is a third of the lease."
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="Tries before a job is dead; with 1, one that a dead worker held is not run.",
    )
    retry_base_seconds: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Pause before the second try of a job that a model failed; it doubles with "
        "each try, up to a minute.",
    )
    dead_max_count: int = Field(
        10_000, ge=1, description="Dead letters kept per lane; the oldest leave first."
    )
    max_message_bytes: int = Field(
        4 * 1024 * 1024,
        ge=64 * 1024,
        description="Largest Celery message; a larger one is refused, or parked where another "
        "client sent it. Large inputs go beside it (inline_input_bytes).",
    )
    max_params_bytes: int = Field(
        64 * 1024,
        ge=1024,
        description="Largest params of a job as JSON; what is larger belongs into its input.",
    )
    max_result_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="Largest result of a job as JSON; a job with a larger one fails. Redis serves "
        "nobody else while it takes one, and refuses what is larger than 512 MB.",
    )
    reservation_bytes: int = Field(
        2 * 1024 * 1024,
        ge=64 * 1024,
        description="Bytes of messages after which a worker reserves no more at once: Redis serves "
        "nobody else while it copies them.",
    )
    unpacked_message_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1024,
        description="Largest body of a compressed Celery message, decompressed.",
    )
    default_deadline_seconds: float | None = Field(
        None, gt=0, description="Deadline of jobs that name none; unset is no deadline."
    )

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        if self.renew_seconds is not None and self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"renew_seconds ({self.renew_seconds}) must be at most half of "
                f"lease_seconds ({self.lease_seconds}), or a lease can lapse between renewals"
            )
        return self

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds, the unit of the scripts."""
        return int(self.lease_seconds * 1000)

    @property
    def patience_ms(self) -> int:
        """A server that was silent for longer may have let leases lapse that somebody holds."""
        return int((self.lease_seconds - self.renew_interval_seconds) * 900)

    @property
    def grace_ms(self) -> int:
        """How long who holds them gets to renew such leases: a renewal and a half."""
        return int(max(1.0, 1.5 * self.renew_interval_seconds) * 1000)

    @property
    def reap_interval_seconds(self) -> float:
        """Seconds between two looks for lapsed leases: several within that patience."""
        return min(1.0, self.lease_seconds / 5)

    @property
    def renew_interval_seconds(self) -> float:
        """Seconds between two renewals of the leases in hand."""
        return self.renew_seconds or self.lease_seconds / 3

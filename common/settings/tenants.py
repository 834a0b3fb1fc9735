"""Tenants: their keys, their limits and their share of a lane."""

from __future__ import annotations

from pydantic import Field

from common.settings.base import Section

DEFAULT_WINDOW = 8


class TenantSettings(Section):
    """API keys, and the limits of tenants."""

    api_keys_required: bool | None = Field(
        None,
        description="true asks every request for a key, also before one exists; false lets "
        "requests without one in, for a private network; unset asks once a key exists, and "
        "refuses to listen beyond loopback before.",
    )
    key_cache_seconds: float = Field(
        5.0,
        ge=0,
        le=300,
        description="How long a process believes what it knows of a key; so long a revoked one "
        "may still work.",
    )
    tenant_jobs_per_second: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="Jobs per second that one tenant may send, on average; 0 is no limit.",
    )
    tenant_burst_jobs: int = Field(
        1_000,
        ge=1,
        le=1_000_000_000,
        description="Jobs that a tenant with such a limit may send at once.",
    )
    tenant_max_in_flight: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Jobs that one tenant may have waiting or running; 0 is no limit.",
    )
    tenant_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share that one tenant may take of what a process has for all: requests that "
        "wait, event streams, inputs being fetched. Where no keys are used, there is one tenant.",
    )
    tenant_window_jobs: int = Field(
        DEFAULT_WINDOW,
        ge=1,
        le=10_000,
        description="Jobs of one tenant that may stand in a band's list; the others wait beside it "
        "until it is their tenant's turn.",
    )

"""Webhooks: where they may go, how often they are tried, how long they are remembered."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from common.settings.base import Networks, Ports, Section, _split

Seconds = Annotated[
    tuple[Annotated[float, Field(ge=0, le=604_800)], ...], NoDecode, BeforeValidator(_split)
]
_KEY_BYTES = 32


class WebhookSettings(Section):
    """The courier's deliveries, and the endpoints of tenants."""

    webhook_key: SecretStr | None = Field(
        None,
        description="32 bytes in base64 with which the secrets of endpoints are encrypted in "
        "Redis; unset keeps them as they are. `openssl rand -base64 32` makes one.",
    )
    webhook_allow: Networks = Field(
        (),
        description="Networks beyond the public internet, as 10.1.0.0/16, that webhooks may be "
        "sent to, at any port. What receivers there answer is not shown.",
    )
    webhook_ports: Ports = Field(
        (80, 443), description="Ports that webhooks may be sent to on the public internet."
    )
    webhook_schedule_seconds: Seconds = Field(
        (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        min_length=1,
        max_length=50,
        description="Pause before each attempt at a delivery; after the last it is dead.",
    )
    webhook_jitter: float = Field(
        0.1, ge=0, le=0.5, description="By which part each pause may be shorter or longer."
    )
    webhook_retry_after_seconds: float = Field(
        604_800,
        ge=0,
        le=2_592_000,
        description="Longest `Retry-After` of a receiver that is honoured; a longer one is cut.",
    )
    webhook_timeout_seconds: float = Field(
        15.0, gt=0, le=120, description="Longest an attempt may take, its answer included."
    )
    webhook_answer_bytes: int = Field(
        64 * 1024, ge=0, description="Bytes of a receiver's answer that are read; the rest is not."
    )
    webhook_result_bytes: int = Field(
        20_000,
        ge=0,
        le=24_000,
        description="Largest result that a webhook carries; above it, a link to the result.",
    )
    webhook_results_waiting: int = Field(
        10_000,
        ge=0,
        description="Where so many deliveries of a tenant wait, results above 1 kB are linked to, "
        "as what waits lies in Redis.",
    )
    webhook_concurrency: int = Field(
        512, ge=1, le=4096, description="Deliveries that a courier has in hand at a time."
    )
    webhook_host_concurrency: int = Field(
        32, ge=1, le=1024, description="Of these, those that are sent to one host at a time."
    )
    webhook_host_per_second: float = Field(
        0.0, ge=0, description="Deliveries a second of one courier to one host; 0 is no limit."
    )
    webhook_max_waiting: int = Field(
        200_000,
        ge=1,
        description="Events and deliveries that may wait; above it, jobs with a webhook are "
        "refused with 429.",
    )
    webhook_max_endpoints: int = Field(
        50, ge=1, le=1000, description="Endpoints that a tenant may register."
    )
    webhook_keep_seconds: int = Field(
        604_800, ge=60, description="How long deliveries are kept for the log and for replay."
    )
    webhook_list_max: int = Field(
        10_000, ge=10, description="Deliveries listed per tenant; the oldest leave first."
    )
    webhook_rotation_seconds: int = Field(
        86_400, ge=0, description="How long a secret still signs after it was rotated."
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="Where clients reach the API, as https://fleet.example.com; put before the "
        "links in webhooks.",
    )

    @field_validator("webhook_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            key_bytes(value)
        return value

    @property
    def webhook_key_bytes(self) -> bytes | None:
        """The key that encrypts secrets; None where they are kept as they are."""
        return None if self.webhook_key is None else key_bytes(self.webhook_key)


def key_bytes(key: SecretStr) -> bytes:
    """The key; raises ValueError for one that is none."""
    try:
        raw = base64.b64decode(key.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise ValueError("not 32 bytes in base64; make a key with `openssl rand -base64 32`")
    return raw

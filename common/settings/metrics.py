"""Metrics: what is exposed besides the usual, and what a device costs."""

from __future__ import annotations

from pydantic import Field

from common.settings.base import Section


class MetricsSettings(Section):
    """What Prometheus is told."""

    metrics_compatibility: bool = Field(
        False,
        description="Whether the metrics are exposed under the names of common dashboards of model "
        "servers as well, such as model_serving_requests_total.",
    )
    metrics_max_tenants: int = Field(
        20,
        ge=0,
        le=1_000,
        description="Tenants with series of their own in a worker's metrics, the busiest ones; the "
        "others are counted together, as `other`.",
    )
    device_hour_price: float = Field(
        0.0,
        ge=0,
        description="Price of one hour of a worker's device, in any currency: what tenants and "
        "inferences cost is computed from it; 0 where it is not known.",
    )

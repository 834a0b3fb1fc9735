"""The courier: the delivery of webhooks, and the batches that it has run."""

from __future__ import annotations

from common.metrics.declaration import Kind, Metric


def _courier(name: str, kind: Kind, text: str, *labels: str, unit: str) -> Metric:
    return Metric(f"lanefleet_courier_{name}", kind, text, labels, unit, ("courier",))


DELIVERIES = _courier(
    "deliveries_total",
    "counter",
    "Attempts to deliver a webhook, by outcome: `delivered`, `retried`, `given_up`.",
    "outcome",
    unit="attempts",
)
DELIVERY_SECONDS = _courier(
    "delivery_seconds", "summary", "Duration of the attempts.", unit="seconds"
)
WAITING = _courier(
    "waiting",
    "gauge",
    "Webhooks that wait to be delivered, or to be delivered again.",
    unit="webhooks",
)
OLDEST = _courier(
    "oldest_age_seconds",
    "gauge",
    "Age of the oldest event that no courier has taken up.",
    unit="seconds",
)
BATCHES_ENDED = _courier(
    "batches_total",
    "counter",
    "Batches that have ended, by status: `completed`, `failed`, `expired`, `cancelled`.",
    "status",
    unit="batches",
)
BATCH_LINES = _courier(
    "batch_lines_total",
    "counter",
    "Lines that were written into the files of results, by outcome: `succeeded` or `failed`. "
    "Tenants beyond the first LANEFLEET_METRICS_MAX_TENANTS are `other`.",
    "tenant",
    "outcome",
    unit="lines",
)

"""The delivery of webhooks."""

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

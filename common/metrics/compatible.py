"""The names of dashboards that people have, filled from the samples of other metrics."""

from __future__ import annotations

from common.metrics.declaration import Kind, Metric, Process

_WHEN = "LANEFLEET_METRICS_COMPATIBILITY is true"


# Names of dashboards that people have, from the samples above.


def _compatible(
    name: str, kind: Kind, text: str, *labels: str, unit: str, by: Process = "api"
) -> Metric:
    return Metric(name, kind, text, labels, unit, (by,), _WHEN)


SERVING_REQUESTS = _compatible(
    "model_serving_requests_total",
    "counter",
    "HTTP requests that named a model, by status.",
    "model_name",
    "status",
    "endpoint",
    unit="requests",
)
SERVING_SECONDS = _compatible(
    "model_serving_request_duration_seconds",
    "histogram",
    "HTTP requests that named a model, and how long they took.",
    "model_name",
    "endpoint",
    unit="seconds",
)
SERVING_ACTIVE = Metric(
    "model_serving_active_requests",
    "gauge",
    "Jobs of the model that wait or run.",
    ("model_name",),
    "jobs",
    ("api",),
    _WHEN,
    total="max",
)
SERVING_GPU = _compatible(
    "model_serving_gpu_utilization_percent",
    "gauge",
    "As lanefleet_worker_device_utilization_ratio.",
    "gpu_id",
    unit="percent",
    by="worker",
)
COMPATIBLE_REQUESTS = _compatible(
    "api_requests_total",
    "counter",
    "As lanefleet_api_request_duration_seconds_count.",
    "method",
    "endpoint",
    "status",
    unit="requests",
)
COMPATIBLE_SECONDS = _compatible(
    "api_request_duration_seconds",
    "histogram",
    "As lanefleet_api_request_duration_seconds, without the status.",
    "method",
    "endpoint",
    unit="seconds",
)

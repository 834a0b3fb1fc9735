"""The metrics of the API about requests and arriving jobs."""

from __future__ import annotations

from common.metrics.declaration import Kind, Metric


def _api(name: str, kind: Kind, text: str, *labels: str, unit: str = "", when: str = "") -> Metric:
    return Metric(f"lanefleet_api_{name}", kind, text, labels, unit, ("api",), when)


# The API: requests.

REQUEST_SECONDS = _api(
    "request_duration_seconds",
    "histogram",
    "HTTP requests by the template of their route, and how long they took, less what a client "
    "asked to wait for. The count is the number of requests.",
    "method",
    "route",
    "status",
    unit="seconds",
)
ACTIVE_REQUESTS = _api(
    "active_requests", "gauge", "HTTP requests under way, waiting ones included.", unit="requests"
)
API_PROCESSES = _api("processes", "gauge", "API processes that serve.", unit="processes")
AUTH = _api(
    "auth_total",
    "counter",
    "Requests by what became of their key: `accepted`, `none` (served without one), `missing`, "
    "`invalid`.",
    "outcome",
    unit="requests",
)

# The API: jobs.

API_JOBS = _api(
    "jobs_total",
    "counter",
    "Jobs by what became of them on arrival: `queued`, `hit` (answered from the cache), "
    "`replayed` (the Idempotency-Key was known), `refused`.",
    "lane",
    "outcome",
    unit="jobs",
)
REFUSED = _api(
    "refused_total",
    "counter",
    "Jobs that were not taken, by the code of the refusal.",
    "lane",
    "reason",
    unit="jobs",
)
CACHE_LOOKUPS = Metric(
    "lanefleet_cache_looks_total",
    "counter",
    "Lookups of a cached result: `hit`, `miss`, `too_old`, `error`.",
    ("model", "outcome"),
    "lookups",
    ("api",),
)
BREAKERS = Metric(
    "lanefleet_api_breakers",
    "gauge",
    "Circuit breakers of a lane, its own and its tenants', by state: `open` or `half_open`.",
    ("lane", "state"),
    "breakers",
    ("api",),
    total="max",
)
SAMPLES = _api(
    "samples_total", "counter", "Looks at the lanes and workers, about one a second.", unit="looks"
)

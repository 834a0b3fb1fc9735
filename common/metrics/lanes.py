"""The metrics of lanes that the API reads from Redis: they exist without a worker."""

from __future__ import annotations

from common.metrics.declaration import Kind, Metric


def _lane(name: str, kind: Kind, text: str, *labels: str, unit: str = "") -> Metric:
    """Read by the API from Redis, once a second: it exists without a worker. All processes of an
    API read the same, so their values are not added.
    """
    labels = ("lane", *labels)
    return Metric(f"lanefleet_lane_{name}", kind, text, labels, unit, ("api",), total="max")


# Lanes, as the API reads them from Redis.

LANE_DEMAND = _lane(
    "demand",
    "gauge",
    "What workers are needed for: waiting and leased jobs, and delayed ones that fall due within "
    "the cold-start time.",
    unit="jobs",
)
LANE_WAITING = _lane(
    "waiting", "gauge", "Jobs that wait, by band; those beside it included.", "band", unit="jobs"
)
LANE_BESIDE = _lane(
    "beside",
    "gauge",
    "How many of these wait beside the bands' lists for their tenant's turn.",
    unit="jobs",
)
LANE_LEASED = _lane("leased", "gauge", "Jobs that workers hold.", unit="jobs")
LANE_DELAYED = _lane("delayed", "gauge", "Jobs that wait for their time.", unit="jobs")
LANE_OLDEST = _lane(
    "oldest_age_seconds",
    "gauge",
    "How long the oldest of the jobs that are served next has waited.",
    unit="seconds",
)
LANE_DRAIN_RATE = _lane(
    "drain_jobs_per_second", "gauge", "Jobs per second that its workers run.", unit="jobs/s"
)
LANE_DRAIN_SECONDS = _lane(
    "drain_seconds", "gauge", "Time until the demand is worked off, at this rate.", unit="seconds"
)
LANE_WORKERS = _lane("workers", "gauge", "Live workers that serve the lane.", unit="workers")
LANE_BREAKER_OPEN = _lane(
    "breaker_open", "gauge", "Whether the lane's own breaker refuses jobs: 0 or 1."
)
LANE_DEAD = _lane("dead", "gauge", "Dead letters of the lane.", unit="jobs")
LANE_JOBS = _lane(
    "jobs_total",
    "counter",
    "Jobs that have ended, by outcome: `succeeded`, `failed`, `dead`, `expired`, `canceled`.",
    "outcome",
    unit="jobs",
)
LANE_SHARED = _lane(
    "shared_total",
    "counter",
    "Jobs that got the result of an identical job's run: single-flight.",
    unit="jobs",
)

"""The metrics of the queue's Redis, as the API reads them from INFO now and then."""

from __future__ import annotations

from common.metrics.declaration import Metric

_WHEN = "INFO is allowed"


def _redis(name: str, text: str, unit: str = "") -> Metric:
    """Every API process reads the same."""
    return Metric(f"lanefleet_api_redis_{name}", "gauge", text, (), unit, ("api",), _WHEN, "max")


REDIS_USED = _redis("used_bytes", "Memory that the queue's Redis uses.", "bytes")
REDIS_MAX = _redis(
    "max_bytes", "Memory at which it refuses writes (`maxmemory`); 0 is no limit.", "bytes"
)
REDIS_MAY_EVICT = _redis(
    "may_evict", "Whether its `maxmemory-policy` lets it drop queued jobs or results: 0 or 1."
)
REDIS_REACHABLE = Metric(
    "lanefleet_api_redis_reachable",
    "gauge",
    "Whether the last look at the lanes could read Redis: 0 or 1. While it is 0 the gauges of the "
    "lanes are left out, as nobody knows them.",
    (),
    "",
    ("api",),
    total="min",
)

"""The metrics of the queue's Redis, as the API reads them from INFO now and then."""

from __future__ import annotations

from common.metrics.declaration import Metric

REDIS_USED = Metric(
    "lanefleet_api_redis_used_bytes",
    "gauge",
    "Memory that the queue's Redis uses.",
    (),
    "bytes",
    ("api",),
    "INFO is allowed",
    total="max",
)
REDIS_MAX = Metric(
    "lanefleet_api_redis_max_bytes",
    "gauge",
    "Memory at which the queue's Redis refuses writes (`maxmemory`); 0 is no limit.",
    (),
    "bytes",
    ("api",),
    "INFO is allowed",
    total="max",
)
REDIS_MAY_EVICT = Metric(
    "lanefleet_api_redis_may_evict",
    "gauge",
    "Whether its `maxmemory-policy` lets it drop queued jobs: 0 or 1.",
    (),
    "",
    ("api",),
    "INFO is allowed",
    total="max",
)

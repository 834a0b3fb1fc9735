"""Batches that are unfinished, as the API reads them from Redis."""

from __future__ import annotations

from common.metrics.declaration import Metric


def _batch(name: str, text: str, *labels: str, unit: str, when: str = "") -> Metric:
    """Read by the API from Redis, so that it exists without a courier. All processes of an API
    read the same, so their values are not added.
    """
    name = f"lanefleet_batch_{name}"
    return Metric(name, "gauge", text, labels, unit, ("api",), when, total="max")


BATCHES_UNFINISHED = _batch(
    "unfinished",
    "Batches that have not ended, by status: `validating`, `in_progress`, `finalizing`, "
    "`cancelling`.",
    "status",
    unit="batches",
)
BATCH_LINES_WAITING = _batch(
    "lines_waiting",
    "Lines of unfinished batches without a result, by tenant; those of the tenants beyond "
    "LANEFLEET_METRICS_MAX_TENANTS are `other`.",
    "tenant",
    unit="lines",
    when="a batch is unfinished",
)
BATCH_TROUBLED = _batch(
    "troubled", "Unfinished batches that wait for the store of files.", unit="batches"
)
BATCH_STILL = _batch(
    "still_seconds",
    "For how long the unfinished batch that stands still longest has not gone on, as far as this "
    "process has seen; 0 without one.",
    unit="seconds",
)

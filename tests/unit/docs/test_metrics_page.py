"""docs/metrics.md is the table of the declarations, word for word.

    python -m tests.unit.docs.test_metrics_page

writes it anew.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from common.metrics.declaration import Metric
from common.metrics.table import METRICS

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
HEADS = {
    "lanefleet_api": "The API",
    "lanefleet_cache": "The API",
    "lanefleet_lane": "Lanes",
    "lanefleet_courier": "The courier",
    "lanefleet_batch": "Batches",
    "lanefleet_worker": "Workers",
    "process": "Every process",
}
INTRODUCTION = """\
# Metrics

Made from the declarations in `common/metrics/` by `python -m tests.unit.docs.test_metrics_page`; a
test compares both with what the processes expose.

The API answers at `/metrics` on its port, to keys with the scope `metrics`. Where
`LANEFLEET_API_WORKERS` is above 1, any of them answers with the sum of all, those that have ended
as well, so no counter goes back. A worker answers at `/metrics` on `LANEFLEET_WORKER_HEALTH_PORT`.

What belongs to a lane and must be known without a worker (demand, age, dead letters) is read from
Redis by the API. A worker has at most 32 series a lane and model version, 29 more for a lane that
generates text, and no label has a worker's name: Prometheus adds `instance`. The share of a full
batch is `batch_jobs / batch_room`; what padding costs, `cost{kind="padded"} / cost{kind="own"}`;
the cost of an inference over time,
`rate(inference_duration_seconds_sum[5m]) / rate(lanefleet_worker_batch_jobs_total[5m])` times
the price of a second.

Three settings change what there is: `LANEFLEET_METRICS_COMPATIBILITY` adds names that dashboards of
other model servers have; `LANEFLEET_DEVICE_HOUR_PRICE` turns device time into money;
`LANEFLEET_METRICS_MAX_TENANTS` bounds the tenants that have a name, which are chosen anew once a
minute by the device time they used. A tenant without a name counts as `other`.

A request costs 0.5 us for its counts, a job in a batch 0.03 us, or 0.24 us where a batch has jobs
of several tenants (CPU time, 2 cores, 2026-11); a scrape reads what was counted.
"""


def _rows(metrics: list[Metric]) -> list[str]:
    lines = ["| metric | kind | labels | unit | meaning |", "|---|---|---|---|---|"]
    for one in metrics:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        text = f"{one.help} Only where: {one.when}." if one.when else one.help
        lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.unit} | {text} |")
    return lines


def _section(metric: Metric) -> str:
    if metric.when.startswith("LANEFLEET_METRICS_COMPATIBILITY"):
        return "Names of common dashboards"
    head = "_".join(metric.name.split("_")[: 1 if metric.name.startswith("process") else 2])
    return HEADS.get(head, "Workers")


def page() -> str:
    """The page, as it must be."""
    lines = [INTRODUCTION]
    for head, group in groupby(METRICS, key=_section):
        lines += [f"## {head}", "", *_rows(list(group)), ""]
    return "\n".join(lines)


def test_the_page_of_metrics_is_made_from_the_declarations() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "a declaration changed: python -m tests.unit.docs.test_metrics_page"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""The declarations keep Prometheus' conventions, and histograms count right."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from common.metrics.declaration import Metric
from common.metrics.exposition import text_of
from common.metrics.histogram import Histogram
from common.metrics.table import METRICS
from tests.support.metrics import samples, value

EDGES = (0.1, 1.0, 10.0)
NAME = re.compile(r"[a-z][a-z0-9_]*[a-z]")


def test_names_are_unique_and_conventional() -> None:
    names = [one.name for one in METRICS]
    assert len(set(names)) == len(names)
    for one in METRICS:
        assert NAME.fullmatch(one.name), one.name
        assert (one.kind == "counter") == one.name.endswith("_total"), one.name
        assert one.help.endswith("."), one.name
        assert one.served_by, one.name
        assert not {"job_id", "url", "worker", "le"} & set(one.labels), one.name


def test_the_couriers_metrics_are_declared() -> None:
    assert {one.name for one in METRICS if "courier" in one.served_by} >= {
        "lanefleet_courier_deliveries_total",
        "lanefleet_courier_waiting",
    }


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_every_value_up_to_its_edge(values: list[float]) -> None:
    histogram = Histogram(EDGES)
    for each in values:
        histogram.observe(each)
    metric = Metric("x_seconds", "histogram", "X.")
    family = metric.family()
    family.add_histogram(EDGES, histogram.counts, histogram.total)
    text = text_of([family]).decode()
    for edge in EDGES:
        below = sum(each <= edge for each in values)
        assert value(text, "x_seconds_bucket", le=str(edge)) == below
    assert value(text, "x_seconds_bucket", le="+Inf") == len(values)
    assert value(text, "x_seconds_count") == len(values)
    assert len(samples(text)) == len(EDGES) + 3

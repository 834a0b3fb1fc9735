"""Prometheus' own tool judges every declaration, also of what this machine cannot have."""

from __future__ import annotations

from common.metrics import courier
from common.metrics.declaration import Metric, MetricFamily
from common.metrics.exposition import text_of
from common.metrics.table import METRICS
from tests.support.metrics import lint

EDGES = (0.1, 1.0, 10.0)


def _filled(metric: Metric) -> MetricFamily:
    family, labels = metric.family(), ["x"] * len(metric.labels)
    if metric.kind == "histogram":
        family.add_histogram(EDGES, [1, 2, 3, 4], 5.0, *labels)
    elif metric.kind == "summary":
        family.add_summary(1, 2.0, *labels)
    else:
        family.add(1, *labels)
    return family


def test_promtool_finds_nothing_in_any_declaration() -> None:
    hooks = [
        one for one in vars(courier).values() if isinstance(one, Metric) and one not in METRICS
    ]
    text = text_of(_filled(one) for one in (*METRICS, *hooks))
    assert lint(text.decode()) == ""

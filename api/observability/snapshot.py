"""What one process counted, in a form that can be sent and added up.

Pure: the parent of several API processes adds their snapshots, and those of the processes that
have ended, so that no counter ever goes back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
from prometheus_client.samples import Sample

from common.metrics.declaration import Metric, MetricFamily
from common.metrics.table import METRICS

Series = tuple[str, str, tuple[tuple[str, str], ...]]
"""A metric's declared name, a sample's name, and its labels."""
Snapshot = dict[Series, float]

_DECLARED: dict[str, Metric] = {metric.name: metric for metric in METRICS}
_FOLD: dict[str, Callable[[float, float], float]] = {
    "sum": operator.add,
    "max": max,
    "min": min,
}


def snapshot_of(families: Iterable[MetricFamily]) -> Snapshot:
    """The samples of these families."""
    return {
        (family.declared.name, sample.name, tuple(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def families_of(snapshot: Snapshot) -> Iterator[MetricFamily]:
    """The families that these samples are of, in the order of the table."""
    families: dict[str, MetricFamily] = {}
    for (name, sample, labels), value in snapshot.items():
        if name not in families:
            families[name] = _DECLARED[name].family()
        families[name].samples.append(Sample(sample, dict(labels), value))
    yield from (families[name] for name in _DECLARED if name in families)


def add(total: Snapshot, other: Snapshot) -> None:
    """Add another process's snapshot to a total."""
    for series, value in other.items():
        if series in total:
            value = _FOLD[_DECLARED[series[0]].total](total[series], value)
        total[series] = value


def retire(total: Snapshot, ended: Snapshot) -> None:
    """Add what stays of a process that has ended: everything but its gauges."""
    kept = {
        series: value for series, value in ended.items() if _DECLARED[series[0]].kind != "gauge"
    }
    add(total, kept)


def hold(total: Snapshot, highest: Snapshot) -> None:
    """Have no sum of counters be below what it was, and note what it is now.

    When a process ends the same numbers are added in another order; by its rounding a sum would go
    back in its last digit, and Prometheus takes that for a restart from 0. Counters that all
    processes read alike are Redis', and begin anew with it.
    """
    for series, value in total.items():
        metric = _DECLARED[series[0]]
        if metric.kind != "gauge" and metric.total == "sum":
            total[series] = highest[series] = max(value, highest.get(series, value))


def dump(snapshot: Snapshot) -> bytes:
    """Encode as JSON."""
    return orjson.dumps([[*series, value] for series, value in snapshot.items()])


def load(text: bytes) -> Snapshot:
    """Read what `dump` wrote; series of undeclared metrics are left out."""
    found: list[Any] = orjson.loads(text)
    return {
        (name, sample, tuple((key, value) for key, value in labels)): value_of
        for name, sample, labels, value_of in found
        if name in _DECLARED
    }

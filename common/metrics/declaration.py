"""What a metric is: its name, kind, labels and meaning, and which process serves it.

A declaration makes the families that a collector yields, so that nothing can be exposed under a
name or with labels other than the declared ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Metric as Family
from prometheus_client.samples import Sample

Kind = Literal["counter", "gauge", "histogram", "summary"]
Process = Literal["api", "worker", "courier"]
Total = Literal["sum", "max", "min"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric."""

    name: str
    """As it is exposed: a counter's ends in `_total`."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    """Of the value, or of what is counted."""
    served_by: tuple[Process, ...] = ()
    when: str = ""
    """On what it depends whether there are samples; empty: always."""
    total: Total = "sum"
    """How the values of several API processes become one."""

    @property
    def stem(self) -> str:
        """The name without `_total`, as the client library keeps it."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name

    def family(self) -> MetricFamily:
        """An empty family to fill, for one scrape."""
        return MetricFamily(self)

    def of(self, value: float, *labels: str) -> MetricFamily:
        """A family with one sample."""
        family = self.family()
        family.add(value, *labels)
        return family


class MetricFamily(Family):
    """The samples of one declared metric."""

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric.stem, metric.help, metric.kind)
        self.declared = metric

    def add(self, value: float, *labels: str) -> None:
        """Add the value of a counter or gauge under these label values."""
        self._add(self.declared.name, labels, value)

    def add_summary(self, count: float, total: float, *labels: str) -> None:
        """Add a count and a sum."""
        name = self.declared.name
        self._add(f"{name}_count", labels, count)
        self._add(f"{name}_sum", labels, total)

    def add_histogram(
        self, edges: Sequence[float], counts: Iterable[float], total: float, *labels: str
    ) -> None:
        """Add a histogram: a count for each bucket, the last one without an upper edge."""
        name, cumulated = self.declared.name, 0.0
        for edge, count in zip((*map(str, map(float, edges)), "+Inf"), counts, strict=True):
            cumulated += count
            self._add(f"{name}_bucket", labels, cumulated, le=edge)
        self._add(f"{name}_count", labels, cumulated)
        self._add(f"{name}_sum", labels, total)

    def _add(self, name: str, labels: Sequence[str], value: float, **more: str) -> None:
        named = dict(zip(self.declared.labels, labels, strict=True))
        self.samples.append(Sample(name, {**named, **more}, value))

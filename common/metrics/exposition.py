"""Families as the text that Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from common.metrics import process
from common.metrics.declaration import Metric, MetricFamily

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PROCESS: dict[str, Metric] = {
    one.stem: one for one in vars(process).values() if isinstance(one, Metric)
}

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter and histogram, which nobody reads


class _Once(Collector):
    """Families that were collected already."""

    def __init__(self, families: Iterable[MetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[MetricFamily]:
        """These families."""
        return self._families


def text_of(families: Iterable[MetricFamily]) -> bytes:
    """The families that have samples, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Once([one for one in families if one.samples]))
    return generate_latest(registry)


def process_families(collector: ProcessCollector) -> Iterator[MetricFamily]:
    """What the client library reads of this process; nothing where there is no /proc."""
    for family in collector.collect():
        if declared := _PROCESS.get(family.name):
            yield declared.of(family.samples[0].value)

"""Reads what an API process has counted, when Prometheus asks.

The parts of the process count in plain attributes; so no request pays for labels or locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector

from api.http.request_counts import EDGES, RequestCounts
from api.overload.breaker import State
from api.overload.lane_metrics import lane_families
from api.services import Services
from common.metrics import api, compatible, lanes
from common.metrics.declaration import MetricFamily
from common.metrics.exposition import process_families
from common.metrics.server import REDIS_REACHABLE

_METHOD, _ROUTE, _STATUS, _LANE = range(4)
"""Positions in the keys of RequestCounts."""

Families = Callable[[], Iterable[MetricFamily]]


@dataclass(frozen=True, slots=True)
class ApiCollector:
    """The metrics of one API process."""

    requests: RequestCounts
    services: Services
    process: ProcessCollector = field(
        default_factory=lambda: ProcessCollector(registry=CollectorRegistry())
    )
    more: Sequence[Families] = ()
    """What other parts of the process expose."""

    def collect(self) -> Iterator[MetricFamily]:
        """Every family, those without samples as well."""
        yield from self._requests()
        yield from self._jobs()
        yield from self._lanes()
        yield from process_families(self.process)
        for families in self.more:
            yield from families()
        if self.services.settings.metrics_compatibility:
            yield from self._compatible()

    def _requests(self) -> Iterator[MetricFamily]:
        durations = api.REQUEST_SECONDS.family()
        for labels, one in self.requests.by(_METHOD, _ROUTE, _STATUS).items():
            durations.add_histogram(EDGES, one.counts, one.total, *labels)
        keys = api.AUTH.family()
        for outcome, count in self.services.authenticator.outcomes.items():
            keys.add(count, outcome)
        yield from (durations, keys)
        yield api.ACTIVE_REQUESTS.of(self.requests.active)
        yield api.API_PROCESSES.of(1)

    def _jobs(self) -> Iterator[MetricFamily]:
        jobs, refused = api.API_JOBS.family(), api.REFUSED.family()
        counts, by_lane = self.services.submission.counts, dict[str, int]()
        for (lane, reason), count in self.services.admission.refused.items():
            refused.add(count, lane, reason)
            by_lane[lane] = by_lane.get(lane, 0) + count
        for outcome, found in (
            ("queued", counts.queued),
            ("hit", counts.hits),
            ("replayed", counts.replayed),
            ("refused", by_lane),
        ):
            for lane, count in found.items():
                jobs.add(count, lane, outcome)
        looks = api.CACHE_LOOKUPS.family()
        for (model, outcome), count in self.services.cache.looks.items():
            looks.add(count, model, outcome)
        yield from (jobs, refused, looks)

    def _lanes(self) -> Iterator[MetricFamily]:
        breakers, shared = api.BREAKERS.family(), lanes.LANE_SHARED.family()
        for lane, state in self.services.sampler.lanes.items():
            count = self.services.breakers.count(lane)
            breakers.add(count[State.OPEN], lane, "open")
            breakers.add(count[State.HALF_OPEN], lane, "half_open")
            shared.add(state.counters.get("shared", 0), lane)
        yield from (breakers, shared)
        yield api.SAMPLES.of(self.services.sampler.samples)
        yield REDIS_REACHABLE.of(int(self.services.sampler.readable))

    def _compatible(self) -> Iterator[MetricFamily]:
        """The same samples under other names."""
        served, durations = (
            compatible.SERVING_REQUESTS.family(),
            compatible.SERVING_SECONDS.family(),
        )
        for (lane, status, route), one in self.requests.by(_LANE, _STATUS, _ROUTE).items():
            if lane:
                served.add(sum(one.counts), lane, status, route)
        for (lane, route), one in self.requests.by(_LANE, _ROUTE).items():
            if lane:
                durations.add_histogram(EDGES, one.counts, one.total, lane, route)
        active = compatible.SERVING_ACTIVE.family()
        for lane, state in self.services.sampler.lanes.items():
            active.add(sum(state.waiting) + state.leased, lane)
        requests = compatible.COMPATIBLE_REQUESTS.family()
        seconds = compatible.COMPATIBLE_SECONDS.family()
        for labels, one in self.requests.by(_METHOD, _ROUTE, _STATUS).items():
            requests.add(sum(one.counts), *labels)
        for labels, one in self.requests.by(_METHOD, _ROUTE).items():
            seconds.add_histogram(EDGES, one.counts, one.total, *labels)
        yield from (served, durations, active, requests, seconds)


def collector_of(services: Services, requests: RequestCounts) -> ApiCollector:
    """The collector of a process with these services."""

    def sampled() -> Iterator[MetricFamily]:
        """Without gauges where Redis cannot be read: an old figure would look like a true one."""
        for family in lane_families(services.sampler.lanes, services.breakers):
            if services.sampler.readable or family.declared.kind != "gauge":
                yield family

    more = (sampled, services.server_watch.families, services.batch_watch.families)
    return ApiCollector(requests, services, more=more)

"""A worker's metrics, read from its counters when Prometheus asks: no job pays for them.

A lane has at most 32 series, one that generates 29 more, one that classifies 8 a version, and a
shadow 10: the waits in the queue and the runs
are histograms of four edges, the other stages a sum and a count. Lanes that are not loaded have
none of these until they run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from prometheus_client import CollectorRegistry, ProcessCollector

from common.metrics import worker as declared
from common.metrics.declaration import MetricFamily
from common.metrics.exposition import process_families
from common.settings import Settings
from worker.lanes.lane import Lane
from worker.lanes.lane_stats import INFER_EDGES
from worker.lanes.stages import BOUNDS, Histogram, Stage
from worker.models.prepared import PREPARED
from worker.observability.device_metrics import DeviceMetrics
from worker.observability.generation_metrics import generation_families
from worker.observability.view import EngineView

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_QUEUE_EDGES = (0.1, 1.0, 10.0, 50.0)
_SUMMED: tuple[Stage, ...] = ("hold", "decode", "device_wait", "collate", "encode")


class WorkerCollector:
    """The metrics of one worker process."""

    def __init__(self, view: EngineView, settings: Settings) -> None:
        self._view = view
        self._price = settings.device_hour_price
        self._device = DeviceMetrics(view, settings)
        self._process = ProcessCollector(registry=CollectorRegistry())

    def collect(self) -> Iterator[MetricFamily]:
        """Every family, those without samples as well."""
        yield from self._stages()
        yield from self._versions()
        yield from self._shadows()
        yield from self._batches()
        yield from generation_families(self._lanes())
        yield from self._jobs()
        yield from self._process_facts()
        yield from self._device.collect()
        yield from self._tenants()
        yield from process_families(self._process)

    def _lanes(self) -> list[Lane]:
        """Those that are served: loaded now, or were."""
        return [
            lane
            for lane in self._view.lanes.values()
            if lane.handler is not None or lane.stats.versions
        ]

    def _stages(self) -> Iterator[MetricFamily]:
        waits, stages = declared.QUEUE_WAIT.family(), declared.STAGE_SECONDS.family()
        for lane in self._lanes():
            found = lane.stats.stages.stages
            queue = found["queue"]
            waits.add_histogram(_QUEUE_EDGES, coarse(queue), queue.seconds, lane.name)
            for stage in _SUMMED:
                if found[stage].count:
                    stages.add_summary(found[stage].count, found[stage].seconds, lane.name, stage)
            if count := found["finish"].count:
                seconds = found["publish"].seconds + found["finish"].seconds
                stages.add_summary(count, seconds, lane.name, "publish")
        yield from (waits, stages)

    def _versions(self) -> Iterator[MetricFamily]:
        infer, jobs = declared.INFERENCE_SECONDS.family(), declared.PREDICTIONS.family()
        scores = declared.CONFIDENCE.family()
        for lane in self._lanes():
            for version, one in list(lane.stats.versions.items()):
                infer.add_histogram(
                    INFER_EDGES, one.infer.counts, one.infer.total, lane.name, version
                )
                jobs.add(one.succeeded, lane.name, version, "success")
                jobs.add(one.failed, lane.name, version, "error")
                if (sure := one.confidence) is not None:
                    scores.add_histogram(sure.edges, sure.counts, sure.total, lane.name, version)
        yield from (infer, jobs, scores)

    def _shadows(self) -> Iterator[MetricFamily]:
        agreement, jobs = declared.SHADOW_AGREEMENT.family(), declared.SHADOW_JOBS.family()
        for lane in self._view.lanes.values():
            for shadow, one in list(lane.stats.shadows.items()):
                found = one.agreement
                names = (lane.name, shadow)
                agreement.add_histogram(found.edges, found.counts.copy(), found.total, *names)
                jobs.add(one.compared, *names, "compared")
                jobs.add(one.failed, *names, "failed")
                jobs.add(one.dropped, *names, "dropped")
        yield from (agreement, jobs)

    def _batches(self) -> Iterator[MetricFamily]:
        jobs, room = declared.BATCH_JOBS.family(), declared.BATCH_ROOM.family()
        cost, sizes = declared.COST.family(), Counter[int]()
        for lane in self._lanes():
            stages = lane.stats.stages
            sizes.update(lane.stats.sizes.copy())
            jobs.add(stages.jobs, lane.name)
            room.add(stages.room, lane.name)
            cost.add(stages.cost, lane.name, "own")
            cost.add(stages.padded_cost, lane.name, "padded")
        batch = declared.BATCH_SIZE.family()
        total = sum(size * count for size, count in sizes.items())
        batch.add_histogram(_SIZES, by_size(sizes), total)
        yield from (batch, jobs, room, cost)

    def _jobs(self) -> Iterator[MetricFamily]:
        view, counters = self._view, self._view.counters()
        process = counters.process
        yield declared.WORKER_JOBS.of(counters.finished)
        yield declared.RESERVED.of(process.reserved)
        yield declared.RENEWED.of(process.renewed)
        yield declared.FENCED.of(counters.fenced)
        yield declared.REAPED.of(process.reaped)
        yield declared.RETRIED.of(process.retried)
        yield declared.DEAD.of(process.dead + process.dead_at_start)
        yield declared.IN_HAND.of(sum(len(lane.in_hand) for lane in view.lanes.values()))
        yield declared.SWITCHES.of(counters.switches)
        cache, events = declared.CACHE_WRITES.family(), declared.EVENT_JOBS.family()
        cache.add(counters.cache_stored, "stored")
        cache.add(counters.cache_dropped, "dropped")
        events.add(view.event_counts.sent, "yes")
        events.add(view.event_counts.sampled_out, "no")
        yield from (cache, events)
        if process.outbox_entries is not None:
            yield declared.OUTBOX_ENTRIES.of(process.outbox_entries)
        if process.outbox_failed is not None:
            yield declared.OUTBOX_FAILED.of(process.outbox_failed)

    def _process_facts(self) -> Iterator[MetricFamily]:
        yield declared.REDIS_SILENCE.of(self._view.redis_health.silence(time.monotonic()))
        yield declared.RSS.of(self._view.rss_mb() * 2**20)
        kept, prepared = PREPARED.counts(), declared.PREPARED.family()
        prepared.add(kept.hits, "hit")
        prepared.add(kept.misses, "miss")
        yield from (prepared, declared.PREPARED_BYTES.of(kept.bytes))
        arrival, pauses = self._view.arrival, declared.GC_PAUSES.family()
        pauses.add_summary(arrival.pauses.count, arrival.pauses.seconds)
        yield pauses
        if arrival.cold_start_seconds is not None:
            yield declared.COLD_START.of(arrival.cold_start_seconds)

    def _tenants(self) -> Iterator[MetricFamily]:
        """What tenants used, and what that costs at the set price."""
        seconds, items = declared.TENANT_DEVICE_SECONDS.family(), declared.TENANT_ITEMS.family()
        spend, each = declared.TENANT_SPEND.family(), self._price / 3600
        for tenant, use in self._view.counters().process.tenants.items():
            seconds.add(use.seconds, tenant)
            items.add(use.items, tenant)
            if each:
                spend.add(use.seconds * each, tenant)
        yield from (seconds, items, spend)
        if each:
            yield declared.HOUR_PRICE.of(self._price)
            jobs = sum(lane.stats.stages.jobs for lane in self._view.lanes.values())
            busy = self._view.device_time.busy_at(time.monotonic())
            if jobs:
                yield declared.INFERENCE_PRICE.of(each * busy / jobs)


def coarse(histogram: Histogram) -> list[float]:
    """The counts of a stage between fewer edges, which are among its own."""
    counts = histogram.counts.copy()
    cuts = [0, *(BOUNDS.index(edge) + 1 for edge in _QUEUE_EDGES), len(counts)]
    return [float(sum(counts[first:last])) for first, last in pairwise(cuts)]


def by_size(sizes: Counter[int]) -> list[float]:
    """The number of batches in each bucket."""
    edges = (0, *_SIZES, float("inf"))
    return [
        float(sum(count for size, count in sizes.items() if low < size <= high))
        for low, high in pairwise(edges)
    ]

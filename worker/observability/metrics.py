"""A worker's counters, its stages and its device's time as Prometheus metrics.

Read at scrape time. Time that is reassigned from one cause of idleness to another between two
scrapes must not decrease a counter, so each keeps its maximum.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from worker.lanes.stages import BOUNDS, Histogram
from worker.observability.view import EngineView

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class StageCollector(Collector):
    """Collects times by lane and stage, and the device's time."""

    def __init__(self, view: EngineView) -> None:
        self._view = view
        self._highest: dict[str, float] = {}

    def collect(self) -> Iterator[Family]:
        """Stage histograms, the device's seconds by state, batch sizes, fill and padding."""
        yield from self._device()
        yield from self._stages()
        yield from self._batches()

    def _device(self) -> Iterator[Family]:
        device, now = self._view.device_time, time.monotonic()
        seconds = CounterMetricFamily(
            "lanefleet_worker_device_seconds",
            "What the device did: busy, or idle for want of what the state says.",
            labels=["state"],
        )
        states: list[tuple[str, float]] = [("busy", device.busy_at(now))]
        states += device.idle_seconds(now).items()
        for state, spent in states:
            highest = self._highest[state] = max(spent, self._highest.get(state, 0.0))
            seconds.add_metric([state], highest)
        recent = GaugeMetricFamily(
            "lanefleet_worker_device_busy_ratio", "The device's busy share of the last 10 seconds."
        )
        recent.add_metric([], device.recent_busy)
        yield from (seconds, recent)

    def _stages(self) -> Iterator[Family]:
        stages = HistogramMetricFamily(
            "lanefleet_worker_stage_seconds",
            "Seconds in each stage; a job's up to device_wait, a batch's from collate on.",
            labels=["lane", "stage"],
        )
        beside = CounterMetricFamily(
            "lanefleet_worker_decode_beside_seconds",
            "Seconds of decoding during which the device ran a batch.",
            labels=["lane"],
        )
        for lane in self._view.lanes.values():
            beside.add_metric([lane.name], lane.stats.stages.beside_seconds)
            for stage, one in lane.stats.stages.stages.items():
                if one.count:
                    stages.add_metric([lane.name, stage], _buckets(one), one.seconds)
        yield from (stages, beside)

    def _batches(self) -> Iterator[Family]:
        sizes = HistogramMetricFamily(
            "lanefleet_worker_batch_size", "Jobs in a batch.", labels=["lane"]
        )
        jobs = CounterMetricFamily(
            "lanefleet_worker_batch_jobs", "Jobs that ran in batches.", labels=["lane"]
        )
        room = CounterMetricFamily(
            "lanefleet_worker_batch_room",
            "Jobs that as many full batches would have held; jobs / room is the fill.",
            labels=["lane"],
        )
        cost = CounterMetricFamily(
            "lanefleet_worker_cost",
            "What ran, in the model's unit of cost, as it is and padded to one length a batch.",
            labels=["lane", "kind"],
        )
        for lane in self._view.lanes.values():
            if counts := lane.stats.sizes.copy():
                total = sum(size * count for size, count in counts.items())
                sizes.add_metric([lane.name], _size_buckets(counts), total)
            jobs.add_metric([lane.name], lane.stats.stages.jobs)
            room.add_metric([lane.name], lane.stats.stages.room)
            cost.add_metric([lane.name, "own"], lane.stats.stages.cost)
            cost.add_metric([lane.name, "padded"], lane.stats.stages.padded_cost)
        yield from (sizes, jobs, room, cost)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative buckets, as Prometheus requires."""
    edges = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")
    return list(zip(edges, accumulate(histogram.counts), strict=True))


def _size_buckets(counts: Mapping[int, int]) -> list[tuple[str, float]]:
    edges = [
        (str(edge), float(sum(count for size, count in counts.items() if size <= edge)))
        for edge in _SIZES
    ]
    return [*edges, ("+Inf", float(sum(counts.values())))]


class EngineCollector(Collector):
    """Reads the worker's counters at scrape time."""

    def __init__(self, view: EngineView) -> None:
        self._view = view

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Jobs, fenced results, batches by size, jobs in hand, seconds since Redis answered."""
        view, counters = self._view, self._view.counters()
        jobs = CounterMetricFamily("lanefleet_worker_jobs", "Jobs published by this worker.")
        jobs.add_metric([], counters.finished)
        fenced = CounterMetricFamily("lanefleet_worker_fenced", "Results refused by the fence.")
        fenced.add_metric([], counters.fenced)
        batches = CounterMetricFamily(
            "lanefleet_worker_batches", "Batches run, by lane and size.", labels=["lane", "size"]
        )
        held = GaugeMetricFamily(
            "lanefleet_worker_jobs_in_hand", "Jobs leased by this worker.", labels=["lane"]
        )
        for lane in view.lanes.values():
            held.add_metric([lane.name], len(lane.in_hand))
            for size, count in lane.stats.sizes.copy().items():
                batches.add_metric([lane.name, str(size)], count)
        events = CounterMetricFamily(
            "lanefleet_worker_event_jobs",
            "Jobs by whether their Celery events were sent; above a set rate they are sampled.",
            labels=["sent"],
        )
        events.add_metric(["yes"], view.event_counts.sent)
        events.add_metric(["no"], view.event_counts.sampled_out)
        silence = GaugeMetricFamily(
            "lanefleet_worker_redis_silence_seconds", "Seconds since Redis last answered."
        )
        silence.add_metric([], view.redis_health.silence(time.monotonic()))
        memory = GaugeMetricFamily(
            "lanefleet_worker_rss_bytes", "Resident memory of the worker process."
        )
        memory.add_metric([], view.rss_mb() * 2**20)
        yield from (jobs, fenced, batches, held, events, silence, memory)

"""Builds a worker's report."""

from __future__ import annotations

import os
import time

from common.jobs.shared_weights import SharedWeights
from common.worker_report import (
    CacheCounts,
    DeviceTimes,
    LaneReport,
    ModelReport,
    PreparedReport,
    ShadowReport,
    StageTime,
    WorkerReport,
)
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.shadow import Shadow
from worker.models.prepared import PREPARED
from worker.observability.runtime import runtime_of
from worker.observability.view import EngineView
from worker.residency.residency import Resident


def report_of(view: EngineView, number: int, now: float) -> WorkerReport:
    """The worker's current state as report `number`; now is steady time."""
    counters, warnings = view.counters(), view.model_warnings()
    return WorkerReport(
        worker=view.worker,
        pid=os.getpid(),
        round=number,
        device=view.device,
        started_at=view.started_at,
        start_seconds=round(max(0.0, view.arrival.age() - (time.time() - view.started_at)), 2),
        on_the_bus=view.on_the_bus,
        loading=view.loading,
        warnings=view.warnings(),
        rss_mb=round(view.rss_mb(), 1),
        finished=counters.finished,
        fenced=counters.fenced,
        cache=CacheCounts(counters.cache_stored, counters.cache_dropped),
        prepared=_prepared(),
        switches=counters.switches,
        device_time=device_times(view.device_time, now),
        runtime=runtime_of(view),
        lanes={
            lane.name: _lane_report(
                lane,
                view.residents[lane.spec.name],
                warnings.get(lane.spec.name),
                view.missing(lane),
            )
            for lane in view.lanes.values()
        },
        models={
            name: ModelReport(round(one.size_mb, 1), round(one.load_seconds, 2))
            for name, one in view.residents.items()
            if one.handler is not None
        },
    )


def _prepared() -> PreparedReport:
    counts = PREPARED.counts()
    return PreparedReport(counts.hits, counts.misses, counts.bytes)


def weights_digests(view: EngineView) -> dict[str, str]:
    """Per lane whose results may be cached: its model and the digest of that model's weights, or
    those of all models that share it.
    """
    found = {}
    for lane in view.lanes.values():
        if not lane.spec.keeps_results_seconds:
            continue
        digest, split = view.residents[lane.spec.name].weights_digest, lane.split
        if split is not None:
            weights = {name: one.weights for name, one in split.models.items()}
            if any(weights.values()):
                found[lane.name] = SharedWeights(split.target, weights).dump()
        elif digest:
            found[lane.name] = f"{lane.spec.name} {digest}"
    return found


def _lane_report(
    lane: Lane, model: Resident, warning: str | None, missing: dict[str, str]
) -> LaneReport:
    stats, stages = lane.stats, lane.stats.stages
    rows = lane.admission.rows if lane.admission is not None else None
    taken, slots = (rows.active, rows.slots) if rows else (0, 0)
    if lane.remote is not None:
        taken, slots = lane.remote.taken, lane.remote.slots
    return LaneReport(
        loaded=lane.handler is not None,
        lazy=lane.spec.load == "lazy",
        error=None if lane.handler else model.error,
        warning=warning,
        model=lane.spec.name,
        fingerprint=model.weights_digest,
        in_hand=len(lane.in_hand),
        fetching=lane.fetching.total(),
        max_batch=lane.limits.max_batch,
        batch_seconds=round(lane.batcher.time.typical, 6),
        batches={str(size): count for size, count in sorted(stats.sizes.copy().items())},
        stages={
            stage: StageTime(one.count, round(one.seconds, 6))
            for stage, one in stages.stages.items()
            if one.count
        },
        decode_beside_seconds=round(stages.beside_seconds, 6),
        jobs=stages.jobs,
        room=round(stages.room, 1),
        cost=round(stages.cost, 1),
        padded_cost=round(stages.padded_cost, 1),
        rows=taken,
        slots=slots,
        row_tokens=int(rows.tokens) if rows else 0,
        steps=rows.steps if rows else 0,
        tokens=stats.generation.completion_tokens,
        shares=lane.split.shares if lane.split is not None else {},
        missing=missing,
        shadow=_shadow_report(lane.shadow),
    )


def _shadow_report(shadow: Shadow | None) -> ShadowReport | None:
    if shadow is None:
        return None
    stats = shadow.stats
    compared = stats.compared
    return ShadowReport(
        model=shadow.model,
        loaded=shadow.served is not None,
        compared=compared,
        agreement=round(stats.agreement.total / compared, 6) if compared else None,
        failed=stats.failed,
        dropped=stats.dropped,
    )


def device_times(device: DeviceTime, now: float) -> DeviceTimes:
    """The device's time until now; `other` is time in neither a batch nor a wait."""
    busy, idle = device.busy_at(now), device.idle_seconds(now)
    seconds = now - device.began
    return DeviceTimes(
        seconds=round(seconds, 4),
        busy=round(busy, 4),
        idle={cause: round(spent, 4) for cause, spent in idle.items()},
        other=round(max(0.0, seconds - busy - sum(idle.values())), 4),
        recent_busy=round(device.recent_busy, 4),
    )

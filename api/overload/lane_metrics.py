"""The gauges of the lanes, from the last sample: what `/v1/lanes` says, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from api.overload.breaker import State
from api.overload.lane_state import LaneState
from api.overload.shared_breakers import Breakers
from common.metrics import lanes
from common.metrics.declaration import Metric, MetricFamily
from common.redis.keys import BANDS

OUTCOMES = ("succeeded", "failed", "dead", "expired", "canceled")
_COUNTS: tuple[tuple[Metric, str], ...] = (
    (lanes.LANE_DEMAND, "demand"),
    (lanes.LANE_BESIDE, "beside"),
    (lanes.LANE_LEASED, "leased"),
    (lanes.LANE_DELAYED, "delayed"),
    (lanes.LANE_OLDEST, "oldest_age_seconds"),
    (lanes.LANE_DRAIN_RATE, "per_second"),
    (lanes.LANE_DRAIN_SECONDS, "drain_seconds"),
    (lanes.LANE_WORKERS, "workers"),
    (lanes.LANE_DEAD, "dead"),
)


def lane_families(
    sampled: Mapping[str, LaneState], breakers: Breakers | None = None
) -> Iterator[MetricFamily]:
    """Every family; a rate that is unknown has no sample."""
    for metric, field in _COUNTS:
        family = metric.family()
        for lane, state in sampled.items():
            if (value := getattr(state, field)) is not None:
                family.add(value, lane)
        yield family
    waiting, jobs = lanes.LANE_WAITING.family(), lanes.LANE_JOBS.family()
    opened = lanes.LANE_BREAKER_OPEN.family()
    for lane, state in sampled.items():
        for band, count in zip(BANDS, state.waiting, strict=True):
            waiting.add(count, lane, str(band))
        for outcome in OUTCOMES:
            jobs.add(state.counters.get(outcome, 0), lane, outcome)
        if breakers is not None:
            opened.add(int(breakers.record(lane).state is not State.CLOSED), lane)
    yield from (waiting, jobs, opened)

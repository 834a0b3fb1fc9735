"""The demand of a lane, and how long a new worker takes."""

from __future__ import annotations

import pytest

from api.overload.lane_metrics import lane_families
from api.overload.lane_state import ColdStarts, LaneState
from common.catalog import ModelSpec
from common.worker_report import LaneReport, ModelReport, WorkerReport


def test_the_demand_is_what_waits_is_leased_or_falls_due_in_time() -> None:
    lane = LaneState(waiting=(1, 2, 4, 8), beside=6, leased=16, delayed=100, due=32)
    assert lane.demand == 15 + 16 + 32
    assert lane.backlog == 15 + 16 + 100
    assert LaneState().demand == 0


def test_the_time_to_drain_is_that_of_the_demand() -> None:
    lane = LaneState(waiting=(10, 0, 0, 0), leased=10, delayed=80, due=20, measured=4.0)
    assert lane.drain_seconds == pytest.approx(10)
    assert LaneState(leased=1).drain_seconds is None
    assert LaneState(delayed=5).drain_seconds == 0


def report(lane: str, start: float, load: float, *, loaded: bool = True) -> WorkerReport:
    said = LaneReport(loaded=loaded, model=lane)
    models = {lane: ModelReport(load_seconds=load)}
    return WorkerReport("w", start_seconds=start, lanes={lane: said}, models=models)


@pytest.fixture
def starts() -> ColdStarts:
    fixed = ModelSpec(name="fixed", handler="echo", cold_start_seconds=7)
    return ColdStarts({"fixed": fixed, "echo": ModelSpec(name="echo", handler="echo")}, 30)


def test_a_cold_start_is_the_setting_and_what_was_measured(starts: ColdStarts) -> None:
    assert starts.seconds("echo") == 30
    starts.recall({b"echo": b"4.5"})
    assert starts.seconds("echo") == 34.5
    starts.recall({b"echo": b"nan", b"other": b""})
    assert starts.seconds("echo") == 30, "what somebody else wrote does no harm"


def test_the_catalogs_figure_is_the_whole_time(starts: ColdStarts) -> None:
    starts.recall({b"fixed": b"100"})
    assert starts.seconds("fixed") == 7
    assert starts.news([report("fixed", 3, 50)]) == {}


def test_the_longest_start_seen_is_kept_once(starts: ColdStarts) -> None:
    reports = [report("echo", 2, 1.5), report("echo", 2, 6), report("echo", 2, 90, loaded=False)]
    assert starts.news(reports) == {"echo": "8.0"}
    starts.recall({b"echo": b"8.0"})
    assert starts.news(reports) == {}
    assert starts.news([report("echo", 2, 5)]) == {}, "little less is no news"
    assert starts.news([report("echo", 1, 1)]) == {"echo": "2.0"}
    assert starts.news([report("echo", 0, 99)]) == {}, "the report of an older version"


def test_a_start_of_less_than_half_a_second_is_kept_too(starts: ColdStarts) -> None:
    assert starts.news([report("echo", 0.4, 0)]) == {"echo": "0.4"}
    starts.recall({b"echo": b"0.4"})
    assert starts.news([report("echo", 0.5, 0)]) == {}


def test_the_gauges_say_what_the_sample_says() -> None:
    busy = LaneState(
        waiting=(1, 2, 0, 4), beside=3, leased=5, delayed=9, due=2, dead=1, workers=2,
        oldest_age_seconds=1.5, measured=7.0, counters={"succeeded": 11, "reaped": 3},
    )  # fmt: skip
    found = {
        (sample.name.removeprefix("lanefleet_lane_"), *sorted(sample.labels.items())): sample.value
        for family in lane_families({"busy": busy, "idle": LaneState()})
        for sample in family.samples
    }
    lane, idle = ("lane", "busy"), ("lane", "idle")
    assert found["demand", lane] == 14
    assert [found["waiting", ("band", band), lane] for band in "0369"] == [1, 2, 0, 4]
    assert (found["beside", lane], found["leased", lane], found["delayed", lane]) == (3, 5, 9)
    assert (found["dead", lane], found["workers", lane]) == (1, 2)
    assert found["oldest_age_seconds", lane] == 1.5
    assert (found["drain_jobs_per_second", lane], found["drain_seconds", lane]) == (7, 2)
    assert found["jobs_total", lane, ("outcome", "succeeded")] == 11
    assert found["demand", idle] == 0
    assert ("drain_jobs_per_second", idle) not in found, "unknown is not 0"

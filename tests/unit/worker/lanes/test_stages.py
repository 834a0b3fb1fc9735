"""What is counted where: stages of a lane, the device's time, and what the CLI makes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from api.cli.stages import _since, sentence
from worker.engine import Engine
from worker.lanes.stages import BOUNDS, DeviceTime, Histogram, LaneStages, Passage


def jobs(passage: Passage | None, count: int) -> list[Any]:
    return [SimpleNamespace(passage=passage, attempt=1, created_ms=0) for _ in range(count)]


def test_a_histogram_counts_each_reading_once_and_adds_them_up() -> None:
    histogram = Histogram()
    histogram.observe(0.003, 5)
    histogram.observe(1000.0)
    assert histogram.count == sum(histogram.counts) == 6
    assert histogram.counts[-1] == 1, "above the last edge"
    assert histogram.seconds == pytest.approx(1000.015)


def test_a_few_jobs_of_a_reservation_stand_for_all_of_it() -> None:
    stages = LaneStages()
    waited = [SimpleNamespace(created_ms=1000 - n, attempt=1, passage=None) for n in range(100)]
    stages.reserved(waited, now_ms=1000)
    queue = stages.stages["queue"]
    assert queue.count == 100
    assert queue.seconds == pytest.approx(4.95, rel=0.1)


def test_a_job_that_was_reserved_before_says_nothing_about_the_queue() -> None:
    stages = LaneStages()
    again = SimpleNamespace(created_ms=1, attempt=2, passage=None)
    foreign = SimpleNamespace(created_ms=0, attempt=1, passage=None)
    stages.reserved([again, foreign], now_ms=1000)
    assert stages.stages["queue"].count == 0


def test_the_edges_are_sorted_and_reach_from_microseconds_to_a_minute() -> None:
    assert list(BOUNDS) == sorted(BOUNDS)
    assert BOUNDS[0] <= 1e-5
    assert BOUNDS[-1] >= 50


def test_a_jobs_stages_add_up_to_its_time_in_hand() -> None:
    stages = LaneStages()
    passage = Passage(arrived=10.0, began=10.5, decoded=12.5, size=4)
    stages.decoded(passage, 4, beside_seconds=1.0)
    stages.taken(jobs(passage, 4), now=16.0, free_since=15.0)
    decode, hold, wait = (stages.stages[name] for name in ("decode", "hold", "device_wait"))
    assert decode.seconds == pytest.approx(2.0), "half a second each"
    assert wait.seconds == pytest.approx(4 * 2.5), "decoded at 12.5, device busy until 15"
    assert decode.seconds + hold.seconds + wait.seconds == pytest.approx(4 * 6.0)
    assert stages.beside_seconds == 1.0


def test_an_idle_device_is_nobodys_wait() -> None:
    stages = LaneStages()
    stages.taken(jobs(Passage(1.0, 1.0, 2.0, 1), 1), now=5.0, free_since=0.5)
    assert stages.stages["device_wait"].seconds == 0
    assert stages.stages["hold"].seconds == pytest.approx(3.0)


def test_jobs_that_were_decoded_at_different_times_are_told_apart() -> None:
    stages = LaneStages()
    early, late = Passage(0.0, 0.0, 1.0, 1), Passage(0.0, 0.0, 3.0, 1)
    last = stages.taken(jobs(early, 3) + jobs(late, 2) + jobs(None, 1), now=4.0, free_since=2.0)
    assert last == 0.0
    assert stages.stages["device_wait"].seconds == pytest.approx(3.0)
    assert stages.stages["device_wait"].count == 5, "a suspect has no passage"


def test_fill_counts_the_nearer_of_both_caps() -> None:
    stages = LaneStages()
    stages.ran(8, 0.5, cost=80.0, padded_cost=100.0, seconds=0.1)
    assert stages.report()["room"] == 16.0
    assert stages.report()["padded_cost"] == 100.0


def test_the_devices_seconds_are_busy_idle_by_cause_or_between_batches() -> None:
    device = DeviceTime(0.0)
    device.wait("no_work", 0.0)
    device.resume(2.0)
    device.took(None)
    device.start(2.5)
    device.end(5.5)
    device.wait("decoding", 5.5)
    report: Any = device.report(6.0)
    assert report["busy"] == 3.0
    assert report["idle"]["no_work"] == 2.0
    assert report["idle"]["decoding"] == 0.5, "a wait that is not over counts"
    assert report["other"] == 0.5
    assert report["seconds"] == 6.0


def test_waiting_after_the_jobs_came_in_is_waiting_for_decoding() -> None:
    device = DeviceTime(0.0)
    device.wait("reserving", 0.0)
    device.resume(3.0)
    device.took(arrived=2.0)
    idle = device.idle_seconds(3.0)
    assert (idle["reserving"], idle["decoding"]) == (2.0, 1.0)


def test_the_overlap_of_a_decode_and_a_running_batch_can_be_read_at_any_time() -> None:
    device = DeviceTime(0.0)
    before = device.busy_at(1.0)
    device.start(2.0)
    assert device.busy_at(5.0) - before == 3.0
    device.end(6.0)
    assert device.busy_at(9.0) - before == 4.0


def test_the_recent_busy_share_forgets_what_is_long_ago() -> None:
    device = DeviceTime(0.0)
    device.start(0.0)
    device.end(20.0)
    for second in range(20, 41):
        device.mark(float(second))
    assert device.recent_busy == 0.0


@pytest.mark.parametrize(
    ("lane", "bringing_in", "cause"),
    [
        ({"batcher": [1], "waiting": 1}, True, "company"),
        ({"waiting": 1, "asking": True}, True, "decoding"),
        ({"asking": True}, True, "loading"),
        ({"asking": True}, False, "reserving"),
        ({"ready": True, "wants": 4}, False, "reserving"),
        ({"ready": True, "wants": 0}, False, "no_work"),
        ({}, False, "no_work"),
    ],
)
def test_an_idle_device_knows_what_it_waits_for(
    lane: dict[str, Any], bringing_in: bool, cause: str
) -> None:
    nothing = {"batcher": [], "waiting": 0, "fetching": 0, "asking": False, "ready": False}
    one = SimpleNamespace(**{**nothing, "wants": 0, **lane}, room=lambda: lane.get("wants"))
    models = SimpleNamespace(is_bringing_in=lambda: bringing_in)
    engine: Any = SimpleNamespace(lanes={"m": one}, models=models)
    assert Engine._why_idle(engine) == cause


def report(busy: float = 0.0, other: float = 0.0, fill: float = 1.0, **idle: float) -> Any:
    causes = dict.fromkeys(
        ("no_work", "reserving", "decoding", "company", "loading", "publishing"), 0.0
    )
    causes.update(idle)
    lane = {
        "model": "m",
        "stages": {"infer": {"count": 2, "seconds": 1.0}},
        "decode_beside_seconds": 0.0,
        "jobs": 100,
        "room": 100 / fill,
        "cost": 1.0,
        "padded_cost": 1.0,
    }
    return {
        "worker": "w",
        "pid": 1,
        "device": "cpu",
        "lanes": {"m": lane},
        "device_time": {
            "seconds": busy + other + sum(causes.values()),
            "busy": busy,
            "idle": causes,
            "other": other,
        },
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            report(busy=37, decoding=63),
            "the device waits for decoding 63% of the time: raise LANEFLEET_DECODE_THREADS",
        ),
        (report(no_work=1000, busy=1), "the device has no work 100% of the time"),
        (report(busy=95, other=5), "the device is busy 95% of the time."),
        (report(busy=95, other=5, fill=0.25), "with batches that are 25% full"),
        (report(no_work=100, busy=70, reserving=30), "while there is work the device is busy 70%"),
        (report(busy=10, other=90), "is between two batches 90%"),
        (report(), "has no work"),
    ],
)
def test_one_sentence_says_where_the_time_goes(given: Any, expected: str) -> None:
    assert expected in sentence(given)


def test_two_reports_are_subtracted_and_idle_stages_left_out() -> None:
    (left,) = _since([report(busy=10, decoding=5)], [report(busy=30, decoding=5)])
    assert left["device_time"]["busy"] == 20
    assert left["lanes"]["m"]["stages"] == {}
    assert left["lanes"]["m"]["model"] == "m"

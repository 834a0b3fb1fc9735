"""What is counted where: stages of a lane, the device's time, and what the CLI makes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker.jobs.passage import Passage
from worker.lanes.device_time import DeviceTime
from worker.lanes.stages import BOUNDS, Histogram, LaneStages
from worker.observability.report import device_times


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
    assert stages.room == 16.0
    assert stages.padded_cost == 100.0


def test_the_devices_seconds_are_busy_idle_by_cause_or_between_batches() -> None:
    device = DeviceTime(0.0)
    device.wait("no_work", 0.0)
    device.resume(2.0)
    device.took(None)
    device.start(2.5)
    device.end(5.5)
    device.wait("decoding", 5.5)
    report = device_times(device, 6.0)
    assert report.busy == 3.0
    assert report.idle["no_work"] == 2.0
    assert report.idle["decoding"] == 0.5, "a wait that is not over counts"
    assert report.other == 0.5
    assert report.seconds == 6.0


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

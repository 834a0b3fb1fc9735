"""The measured drain rate, with a clock passed in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.overload.lane_state import LaneState
from api.overload.throughput import Throughput


def steady(rate: Throughput, per_second: float, seconds: int, since: float = 0.0) -> float:
    """A lane that always has more to do and drains at this rate; returns the last moment."""
    for second in range(seconds + 1):
        rate.observe(since + second, int(second * per_second), busy=True, workers=1)
    return since + seconds


def test_a_busy_lane_is_measured() -> None:
    rate = Throughput()
    now = steady(rate, 40, 10)
    assert rate.per_worker(now) == pytest.approx(40)


def test_an_idle_lane_says_nothing_about_what_it_could() -> None:
    rate = Throughput()
    for second in range(60):
        rate.observe(second, second, busy=False, workers=1)
    assert rate.per_worker(60) is None


def test_a_trickle_does_not_spoil_what_was_measured_under_load() -> None:
    rate = Throughput()
    now = steady(rate, 1000, 20)
    for second in range(1, 300):
        rate.observe(now + second, 20_000 + second, busy=False, workers=1)
    assert rate.per_worker(now + 300) == pytest.approx(1000)


def test_a_rate_is_not_believed_for_ever() -> None:
    rate = Throughput()
    now = steady(rate, 10, 10)
    assert rate.per_worker(now + 599) is not None
    assert rate.per_worker(now + 601) is None


def test_it_follows_a_change_within_half_a_minute() -> None:
    rate = Throughput()
    now = steady(rate, 100, 60)
    for second in range(1, 31):
        rate.observe(now + second, 6000 + second * 10, busy=True, workers=1)
    assert 10 < rate.per_worker(now + 30) < 25


def test_batches_of_ten_seconds_do_not_make_it_jump() -> None:
    rate = Throughput()
    seen = []
    for second in range(200):
        rate.observe(second, second // 10 * 32, busy=True, workers=1)
        if second > 60:
            seen.append(rate.per_worker(second))
    assert 3.2 / 1.5 < min(seen) < max(seen) < 3.2 * 1.5


def test_workers_share_what_was_drained() -> None:
    rate = Throughput()
    for second in range(20):
        rate.observe(second, second * 80, busy=True, workers=4)
    assert rate.per_worker(20) == pytest.approx(20)


def test_counters_that_began_anew_are_taken_from_there() -> None:
    rate = Throughput()
    now = steady(rate, 50, 20)
    rate.observe(now + 1, 0, busy=True, workers=1)
    rate.observe(now + 2, 50, busy=True, workers=1)
    assert rate.per_worker(now + 2) == pytest.approx(50)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.01, 30), st.integers(0, 1000), st.booleans(), st.integers(1, 9)),
        max_size=40,
    )
)
def test_it_never_leaves_what_was_seen(readings: list[tuple[float, int, bool, int]]) -> None:
    rate, now, settled, was_busy, seen = Throughput(), 0.0, 0, False, []
    for seconds, drained, busy, workers in readings:
        now, settled = now + seconds, settled + drained
        rate.observe(now, settled, busy=busy, workers=workers)
        if busy and was_busy:
            seen.append(drained / seconds / workers)
        was_busy = busy
    found = rate.per_worker(now)
    if found is not None:
        assert min(seen) - 1e-6 <= found <= max(seen) * (1 + 1e-6)


def test_jobs_of_later_bands_are_not_ahead() -> None:
    lane = LaneState(waiting=(10, 20, 30, 40), leased=5, estimated=8.0, measured=10.0)
    assert [lane.ahead(priority) for priority in (0, 3, 5, 6, 9)] == [10, 30, 30, 60, 100]
    assert lane.start_seconds(3) == pytest.approx(3.0)
    assert lane.backlog == 105
    assert LaneState(waiting=(1, 0, 0, 0)).start_seconds() is None

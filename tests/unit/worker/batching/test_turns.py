"""Whose turn it is on the device, by a fake clock."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from worker.batching.turns import Candidate, Turns


def test_the_lane_whose_oldest_job_waited_longest_goes_first() -> None:
    turns = Turns(10, 2.0)
    lanes = [Candidate("a", 0.1), Candidate("b", 0.3), Candidate("c", 0.2)]
    assert turns.order(lanes, 0.0) == ["b", "c", "a"]


def test_weight_multiplies_and_a_switch_must_pay_for_itself() -> None:
    turns = Turns(10, 2.0)
    assert turns.order([Candidate("a", 0.2), Candidate("b", 0.15, weight=2.0)], 0.0)[0] == "b"
    turns.took("a", 0.0)
    cold = Candidate("cold", 3.0, switch_seconds=2.5)
    assert turns.order([Candidate("a", 1.0), cold], 1.0)[0] == "a"
    assert turns.order([Candidate("a", 0.4), cold], 1.0)[0] == "cold"
    heavy = Candidate("a", 0.3, weight=3.0)
    assert turns.order([heavy, Candidate("b", 0.5)], 1.0)[0] == "a", "the current lane's counts too"


def test_a_turn_ends_after_its_batches_or_its_time() -> None:
    turns = Turns(3, 2.0)
    waiting = [Candidate("a", 0.1, full=True), Candidate("b", 9.0, full=True)]
    turns.took("a", 0.0)
    assert turns.order(waiting, 0.1)[0] == "a"
    assert turns.order(waiting, 2.0)[0] == "b", "its time is over"
    turns.took("a", 0.2)
    assert turns.order(waiting, 0.25)[0] == "a", "one of its three is left"
    turns.took("a", 0.3)
    assert turns.order(waiting, 0.4)[0] == "b", "it had its batches"


def test_a_switch_is_a_batch_of_another_lane_than_the_last() -> None:
    turns = Turns(3, 2.0)
    assert [turns.took(name, 0.0) for name in "aabba"] == [True, False, True, False, True]
    assert turns.switches == 3


def test_a_lane_without_a_full_batch_keeps_nobody_waiting() -> None:
    turns = Turns(10, 2.0)
    turns.took("a", 0.0)
    assert turns.order([Candidate("a", 0.1), Candidate("b", 0.2)], 0.1)[0] == "b"


@given(
    seconds=st.lists(st.floats(0.001, 0.2), min_size=2, max_size=6),
    batches=st.integers(1, 16),
)
def test_at_saturation_nobody_starves_and_switches_are_rare(
    seconds: list[float], batches: int
) -> None:
    """Every lane always has a full batch; each batch takes its lane's time."""
    turns, now = Turns(batches, 2.0), 0.0
    names = [f"lane-{number}" for number in range(len(seconds))]
    served = dict.fromkeys(names, 0.0)
    had: Counter[str] = Counter()
    longest = 0.0
    for _ in range(600):
        lanes = [Candidate(name, now - served[name], full=True) for name in names]
        name = turns.order(lanes, now)[0]
        longest = max(longest, now - served[name])
        turns.took(name, now)
        now += seconds[names.index(name)]
        served[name] = now
        had[name] += 1
    assert set(had) == set(names)
    # Everybody else's turn, each of which may overrun by one batch.
    assert longest <= sum(min(2.0, batches * one) + one for one in seconds) + 1e-6
    if max(seconds) * batches <= 2.0:
        assert turns.switches <= 600 / batches + 1


def test_beside_a_lane_of_steps_a_turn_is_one_step_or_one_batch() -> None:
    """Both always have work; a batch takes five steps' time."""
    turns, now, order = Turns(16, 2.0), 100.0, []
    ended = {"steps": 100.0, "batches": 0.0}
    for _ in range(8):
        lanes = [
            Candidate("steps", now - ended["steps"], steps=True),
            Candidate("batches", now - 50, full=True),
        ]
        name = turns.order(lanes, now)[0]
        turns.took(name, now)
        order.append(name)
        now += 0.02 if name == "steps" else 0.1
        ended[name] = now
    assert order == ["batches", "steps"] * 4


def test_a_job_that_comes_amid_a_step_is_next_and_lanes_of_steps_share() -> None:
    turns = Turns(16, 2.0)
    turns.took("a", 10.0)
    steps = [Candidate("a", 0.0, steps=True), Candidate("b", 0.02, steps=True)]
    assert turns.order([steps[0], Candidate("echo", 0.001)], 10.02)[0] == "echo"
    assert turns.order([*steps, Candidate("echo", 0.005)], 10.02)[0] == "b"
    turns.took("b", 10.02)
    steps = [Candidate("a", 0.02, steps=True), Candidate("b", 0.0, steps=True)]
    assert turns.order([*steps, Candidate("echo", 0.025)], 10.04)[0] == "echo"

"""A planted slowdown is flagged, a repeat is not: the rule on made-up seconds."""

from __future__ import annotations

import random

import pytest

from api.cli.bench.comparison import Change, compare, is_slower
from api.cli.bench.figures import Stage, Window

RUNS = 8


def run(
    chance: random.Random, *, slower: float = 1.0, noise: float = 0.05, seconds: int = 30
) -> Stage:
    """A minute of a model that does 1,000 items a second, or `slower` times fewer.

    What disturbs lasts: half of it stays from one second to the next.
    """
    windows, drift = [], 0.0
    for _ in range(seconds):
        drift = 0.5 * drift + chance.gauss(0, noise)
        pace = slower * max(0.2, 1 + drift)
        windows.append(Window(round(1_000 / pace), 16 * pace, 20 * pace * chance.uniform(1, 1.3)))
    return Stage("m", 16, float(seconds), sum(one.items for one in windows), windows=windows)


def test_twenty_percent_are_flagged_every_time() -> None:
    chance = random.Random(1)
    for _ in range(RUNS):
        assert is_slower(compare([run(chance)], [run(chance, slower=1.2)]))


def test_a_repeat_is_silent_every_time() -> None:
    chance = random.Random(2)
    for _ in range(RUNS):
        assert not is_slower(compare([run(chance)], [run(chance)]))


def test_a_drift_of_five_percent_between_runs_is_silent() -> None:
    chance = random.Random(3)
    found = [is_slower(compare([run(chance)], [run(chance, slower=1.05)])) for _ in range(RUNS)]
    assert sum(found) <= 1, "a second's noise may add as much again, once in a while"


def test_on_a_machine_too_unsteady_to_tell_nothing_is_the_same() -> None:
    chance = random.Random(4)
    (change, *_) = compare([run(chance, noise=0.5)], [run(chance, noise=0.5)])
    assert change.verdict == "unclear"


def test_what_is_faster_is_no_failure() -> None:
    chance = random.Random(5)
    changes = compare([run(chance, slower=1.3)], [run(chance)])
    assert {one.verdict for one in changes if one.figure != "p95 ms"} == {"faster"}
    assert not is_slower(changes)


def test_one_second_of_a_stall_is_no_slowdown() -> None:
    chance = random.Random(6)
    after = run(chance)
    stalled = Stage("m", 16, 30.0, after.items, windows=[Window(0), *after.windows[1:]])
    assert not is_slower(compare([run(chance)], [stalled]))


def test_more_errors_are_a_difference() -> None:
    before = Stage("m", 16, 1.0, 100, windows=[Window(100, 1.0, 1.0)])
    after = Stage("m", 16, 1.0, 97, errors={"timeout": 3}, windows=[Window(100, 1.0, 1.0)])
    assert [one.figure for one in compare([before], [after]) if one.verdict == "slower"] == [
        "errors"
    ]
    assert not is_slower(compare([after], [after]))


def test_runs_without_a_common_stage_have_nothing_to_compare() -> None:
    one = Stage("m", 16, 1.0, 1, windows=[Window(1, 1.0, 1.0)])
    other = Stage("m", 64, 1.0, 1, windows=[Window(1, 1.0, 1.0)])
    assert compare([one], [other]) == []


@pytest.mark.parametrize(
    ("worse", "low", "high", "verdict"),
    [
        (1.20, 1.06, 1.35, "slower"),
        (1.20, 1.04, 1.45, "unclear"),
        (1.09, 1.08, 1.10, "same"),
        (0.80, 0.75, 0.85, "faster"),
        (1.00, 0.97, 1.03, "same"),
        (1.00, 0.80, 1.25, "unclear"),
    ],
)
def test_a_verdict_takes_the_estimate_and_its_interval(
    worse: float, low: float, high: float, verdict: str
) -> None:
    assert Change("m", 1, "items/s", 1.0, worse, worse, low, high, 0.1).verdict == verdict


def test_the_same_runs_give_the_same_change() -> None:
    chance = random.Random(7)
    before, after = run(chance), run(chance)
    assert compare([before], [after]) == compare([before], [after])

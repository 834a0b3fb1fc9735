"""What a comparison concludes from its pairs, and which trees it takes for checkouts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.benchmarks.checkouts import Checkout, open_checkout
from tests.benchmarks.pairs import LEAST_BOUND, Finding, Pair, judge, ratios, spread
from tests.support.stack import ROOT

STILL: list[Pair] = [(40.0, 40.0)] * 11


def finding(ratio: float, spread_of_itself: float = 0.0) -> Finding:
    return Finding("drain", "worker", 40.0, 40.0 * ratio, ratio, spread_of_itself)


def test_a_ratio_is_the_other_over_the_base() -> None:
    assert ratios([(40.0, 50.0), (50.0, 40.0)]) == [1.25, 0.8]


def test_pairs_that_all_agree_have_no_spread() -> None:
    assert spread([1.0] * 11) == 0


def test_a_lasting_difference_between_two_arms_of_the_base_is_spread() -> None:
    assert spread([1.03] * 11) == pytest.approx(0.03)
    assert spread([0.97] * 11) == pytest.approx(0.03)


def test_the_spread_of_one_pair_is_its_distance_from_one() -> None:
    assert spread([0.93]) == pytest.approx(0.07)


def test_the_spread_does_not_follow_one_disturbed_pair() -> None:
    assert spread([1.0] * 10 + [3.0]) == 0


def test_the_same_pairs_give_the_same_spread() -> None:
    found = [0.97, 1.01, 1.04, 0.99, 1.02]
    assert spread(found) == spread(found)


def test_more_pairs_narrow_the_spread() -> None:
    chance = random.Random(1)
    many = [chance.gauss(1, 0.05) for _ in range(200)]
    assert spread(many) < spread(many[:11])


def test_nine_of_ten_medians_of_unchanged_code_stay_within_the_spread() -> None:
    chance = random.Random(2)

    def draw() -> list[float]:
        return [chance.gauss(1, 0.05) for _ in range(11)]

    within = sum(abs(sorted(draw())[5] - 1) <= spread(draw()) for _ in range(100))
    assert within >= 85


def test_less_than_two_percent_is_never_over() -> None:
    assert not finding(1 + LEAST_BOUND * 0.99).over
    assert finding(1 + LEAST_BOUND * 1.01).over


def test_a_spread_above_two_percent_is_the_bound() -> None:
    assert not finding(1.049, 0.05).over
    assert finding(1.051, 0.05).over


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.1, "MORE"), (1.01, "same"), (0.99, "same"), (0.9, "less")]
)
def test_the_verdict_says_what_the_head_costs(ratio: float, verdict: str) -> None:
    assert finding(ratio).verdict == verdict


def test_costing_less_is_not_over() -> None:
    assert not finding(0.5).over


def test_the_median_of_ratios_counts_and_not_the_ratio_of_medians() -> None:
    pairs = [(40.0, 42.0), (80.0, 84.0), (400.0, 400.0)]
    found = judge("drain", "worker", STILL, pairs)
    assert found.ratio == 1.05
    assert (found.base_us, found.head_us) == (80.0, 84.0)
    assert found.over


def test_this_tree_is_a_checkout_that_runs_its_own_packages(tmp_path: Path) -> None:
    with open_checkout(str(ROOT), tmp_path) as found:
        assert found.root == ROOT
        assert str(ROOT) in found.title


def test_what_is_neither_a_tree_nor_a_revision_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="neither a tree of this project nor a revision"),
        open_checkout("no-such-revision", tmp_path),
    ):
        pass


def test_a_tree_without_packages_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would run"):
        Checkout("empty", tmp_path, tmp_path / "bytecode").check()

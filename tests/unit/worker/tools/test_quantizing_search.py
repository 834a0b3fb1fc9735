"""The search for layers that stay in fp32, on made-up harms: no graph is needed to test it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tools.quantizing.search import Score, Unit, find_kept, units_of


def units(count: int) -> list[Unit]:
    return [Unit(frozenset([f"n{index}"]), f"n{index} (MatMul)") for index in range(count)]


class Harms:
    """Harms that add up; counts what was tried."""

    def __init__(self, harms: list[float]) -> None:
        self.harms = {f"n{index}": harm for index, harm in enumerate(harms)}
        self.tries: list[frozenset[str]] = []

    def __call__(self, kept: frozenset[str]) -> Score:
        self.tries.append(kept)
        lost = sum(harm for name, harm in self.harms.items() if name not in kept)
        return Score(1 - lost, 1 - lost)


def test_nothing_is_kept_where_nothing_harms() -> None:
    score = Harms([0.001] * 5)
    found = find_kept(units(5), score, 0.99)
    assert (found.kept, found.met, len(score.tries)) == ((), True, 1)


def test_what_harms_most_is_kept() -> None:
    score = Harms([0.001, 0.02, 0.0, 0.05, 0.002])
    found = find_kept(units(5), score, 0.99)
    assert [one.title for one in found.kept] == ["n3 (MatMul)", "n1 (MatMul)"]
    assert found.met
    assert found.agreement == pytest.approx(0.997)
    assert found.whole == pytest.approx(1 - 0.073)
    assert found.harm["n3 (MatMul)"] == pytest.approx(0.05)


def test_a_goal_out_of_reach_is_told_with_what_was_reached() -> None:
    found = find_kept(units(3), Harms([0.5, 0.4, 0.3]), 0.99)
    assert not found.met
    assert found.agreement == pytest.approx(0.7)


def test_what_is_not_needed_after_all_is_given_back() -> None:
    """n1 harms alone, and nothing beside n0, which the order does not know."""

    def score(kept: frozenset[str]) -> Score:
        if len(kept) == 2:  # one of the three alone is quantized
            [alone] = {"n0", "n1", "n2"} - kept
            return Score(0.0, {"n0": 0.7, "n1": 0.8, "n2": 0.9}[alone])
        return Score(1.0 if "n1" in kept else 0.0, 1.0)

    found = find_kept([*units(3), Unit(frozenset(["n3"]), "n3 (MatMul)")], score, 0.99)
    assert found.met
    assert score(frozenset().union(*(one.names for one in found.kept))).agreement >= 0.99


@given(st.lists(st.floats(0, 0.02), min_size=1, max_size=40))
def test_whatever_is_found_meets_the_goal_in_few_tries(harms: list[float]) -> None:
    score = Harms(harms)
    found = find_kept(units(len(harms)), score, 0.97)
    kept = frozenset().union(*(one.names for one in found.kept))
    assert found.met == (score(kept).agreement >= 0.97)
    assert len(score.tries) <= len(harms) + 20
    if found.met and found.kept:
        lightest = min(found.kept, key=lambda one: found.harm[one.title])
        assert score(kept - lightest.names).agreement < 0.97, "the last one was needed"


def test_many_layers_are_tried_in_groups() -> None:
    few = [(f"n{index}", "MatMul 4x4") for index in range(32)]
    assert len(units_of(few)) == 32
    by_shape = [(f"n{index}", f"MatMul 4x{index % 4}") for index in range(96)]
    assert [one.title for one in units_of(by_shape)] == [f"24 of MatMul 4x{n}" for n in range(4)]
    unlike = [(f"n{index}", f"Conv {index}") for index in range(100)]
    found = units_of(unlike)
    assert len(found) <= 32
    assert found[0].title == "n0 to n3"
    assert len(frozenset().union(*(one.names for one in found))) == 100

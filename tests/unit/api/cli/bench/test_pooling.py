"""A stage that was taken in turns has the figures of all of them."""

from __future__ import annotations

from array import array
from collections import Counter

from api.cli.bench.fleet_facts import Ran
from api.cli.bench.generator import Tally
from api.cli.bench.meter import Used
from api.cli.bench.pooling import Turn, stage_of


def turn(began: float, latencies: list[float], busy: float | None = None) -> Turn:
    """An answer every half second, from a quarter second on; two seconds long."""
    at = array("d", [began + 0.25 + 0.5 * number for number in range(len(latencies))])
    tally = Tally(at, array("d", latencies), Counter(timeout=1), 2, Counter({4: 8}))
    ran = None if busy is None else Ran({8: 3}, busy)
    return Turn(tally, Used(began, began + 2.0, cpu=0.5, waited=0.5), ran, 0.75)


def test_turns_are_pooled() -> None:
    stage = stage_of("m", 4, [turn(10, [1, 2, 3, 4], 0.5), turn(50, [5, 6, 7, 8], 0.7)])
    assert (stage.items, stage.seconds, stage.items_per_second) == (8, 4.0, 2.0)
    assert (stage.p50_ms, stage.worst_ms) == (4, 8)
    assert [one.items for one in stage.windows] == [2, 2, 2, 2], "none spans two turns"
    assert stage.batches == {8: 6}
    assert stage.device_busy == 0.6
    assert stage.errors == {"timeout": 2}
    assert (stage.reused, stage.generator_busy, stage.generator_waited) == (4, 0.25, 0.5)


def test_what_one_turn_does_not_know_the_stage_does_not() -> None:
    stage = stage_of("m", 4, [turn(10, [1], 0.5), turn(50, [2])])
    assert stage.device_busy is None
    assert stage.batches == {8: 3, 4: 2}


def test_answers_outside_of_the_span_do_not_count() -> None:
    one = turn(10, [1, 2, 3, 4, 5, 6])
    assert stage_of("m", 4, [one]).items == 4
    assert stage_of("m", 4, [turn(10, [])]).items == 0

"""KEDA's and the HPA's rules, case by case."""

from __future__ import annotations

import pytest

from tests.support.keda import Behavior, Hpa, Keda, Policy, wanted_by_all, wanted_replicas

ONE_DOWN = Behavior(60, (Policy("Pods", 1, 30),))


@pytest.mark.parametrize(
    ("replicas", "total", "target", "wanted"),
    [
        (1, 1000, 128, 8),
        (8, 1000, 128, 8),  # 0.977 of the target
        (10, 1200, 128, 10),  # 0.9375
        (10, 1100, 128, 9),  # 0.859
        (1, 0, 128, 0),
        (2, 2.2004, 1, 3),  # 1.1005 after rounding up to thousandths
        (2, 2.2, 1, 2),
    ],
)
def test_a_metric_within_a_tenth_changes_nothing(
    replicas: int, total: float, target: float, wanted: int
) -> None:
    assert wanted_replicas(replicas, total, target) == wanted


def test_of_several_metrics_the_largest_wins_and_a_failing_one_blocks_the_way_down() -> None:
    assert wanted_by_all(3, [(100, 10), (10, 10)]) == 10
    assert wanted_by_all(3, [(None, 10), (10, 10)]) == 3
    assert wanted_by_all(3, [(None, 10), (100, 10)]) == 10
    assert wanted_by_all(3, [(None, 10)]) == 3


def test_it_doubles_or_adds_four_in_a_period() -> None:
    hpa, replicas, seen = Hpa(1, 30), 1, []
    for sync in range(4):
        replicas = hpa.sync(sync * 15, replicas, 30)
        seen.append(replicas)
    assert seen == [5, 10, 20, 30]


def test_it_falls_to_the_most_that_was_wanted_in_the_window() -> None:
    hpa = Hpa(1, 20)
    assert hpa.sync(0, 10, 10) == 10
    assert hpa.sync(15, 10, 2) == 10
    assert hpa.sync(299, 10, 3) == 10
    assert hpa.sync(301, 10, 2) == 3
    assert hpa.sync(640, 3, 0) == 1, "never below its least"


def test_one_pod_down_a_period() -> None:
    hpa, replicas, seen = Hpa(1, 10, down=ONE_DOWN), 4, []
    for sync in range(12):
        replicas = hpa.sync(sync * 15, replicas, 0)
        seen.append(replicas)
    assert seen == [4, 4, 4, 4, 3, 3, 2, 2, 1, 1, 1, 1]


def test_a_disabled_direction_and_bounds() -> None:
    assert Hpa(1, 10, down=Behavior(0, (), "Disabled")).sync(0, 5, 1) == 5
    assert Hpa(2, 10).sync(0, 1, 9) == 2
    assert Hpa(2, 10).sync(0, 12, 12) == 10
    assert Hpa(1, 10).sync(0, 0, 9) == 0, "asleep"


def test_keda_wakes_at_once_and_sleeps_after_the_cooldown() -> None:
    keda = Keda(cooldown_seconds=300)
    assert keda.poll(0, 0, 1) == 1
    assert keda.poll(30, 1, 5) is None
    assert keda.poll(330, 1, 0) is None
    assert keda.poll(331, 1, 0) == 0
    assert keda.poll(360, 0, 0) is None
    assert Keda(activation=5).poll(0, 0, 5) is None, "more than the activation"


def test_an_outage_holds_unless_the_fallback_is_zero() -> None:
    assert Keda(_active_at=0).poll(999, 5, None) is None
    assert Keda(fallback_replicas=2, _active_at=0).poll(999, 5, None) is None
    assert Keda(fallback_replicas=0, _active_at=0).poll(999, 5, None) == 0, "never ship that"


def test_after_failures_the_fallback_speaks() -> None:
    keda = Keda(fallback_replicas=3, fallback_behavior="currentReplicasIfHigher")
    told = []
    for poll in range(5):
        keda.poll(poll * 30, 5, None)
        told.append(keda.metric(5, None, 10))
    assert told == [None, None, None, 50, 50]
    assert keda.metric(2, None, 10) == 30
    assert keda.metric(2, 7, 10) == 7
    static = Keda(fallback_replicas=3, _failures=9)
    assert static.metric(5, None, 10) == 30

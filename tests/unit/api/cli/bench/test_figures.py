"""What a stage amounts to, and where the knee is."""

from __future__ import annotations

import pytest

from api.cli.bench.figures import (
    Stage,
    Window,
    is_still_rising,
    knee,
    percentile,
    spread,
    window_seconds,
    windows_of,
)


def stage(clients: int, items: int, **more: object) -> Stage:
    return Stage("m", clients, 10.0, items, **more)  # type: ignore[arg-type]


def test_the_knee_is_the_fewest_clients_that_reach_95_percent_of_the_best() -> None:
    stages = [stage(1, 100), stage(10, 949), stage(50, 950), stage(100, 1000), stage(256, 990)]
    found = knee(stages)
    assert found is not None
    assert found.clients == 50


def test_throughput_that_falls_with_more_clients_moves_no_knee() -> None:
    found = knee([stage(1, 500), stage(10, 1000), stage(100, 300)])
    assert found is not None
    assert found.clients == 10


def test_a_run_without_a_result_has_no_knee() -> None:
    assert knee([stage(1, 0), stage(10, 0)]) is None
    assert knee([]) is None


def test_a_knee_at_the_most_clients_is_still_rising() -> None:
    assert is_still_rising([stage(1, 100), stage(10, 1000)])
    assert not is_still_rising([stage(1, 1000), stage(10, 1000)])
    assert not is_still_rising([stage(1, 100)]), "one stage says nothing of more"


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.99, 99), (1, 100)]
)
def test_a_percentile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert percentile([float(one) for one in range(1, 101)], share) == value


def test_windows_hold_the_answers_of_their_second_and_only_whole_ones_count() -> None:
    answers = [(0.1, 5.0), (0.9, 7.0), (1.5, 9.0), (2.2, 11.0)]
    assert windows_of(answers, 2.5) == [Window(2, 5.0, 7.0), Window(1, 9.0, 9.0)]
    assert windows_of([], 2.0) == [Window(0), Window(0)]


def test_windows_are_longer_where_batches_are() -> None:
    assert window_seconds(60, 20) == 1
    assert window_seconds(60, 1_000) == 3
    assert window_seconds(20, 10_000) == 2, "ten of them at least"


def test_a_stage_survives_its_json() -> None:
    one = stage(
        *(16, 900),
        p50_ms=1.5,
        errors={"429 lane-full": 3},
        batches={8: 100, 16: 6},
        windows=[Window(90, 1.5, 2.0), Window(0)],
        device_busy=0.5,
    )
    assert Stage.of(one.as_dict()) == one
    assert one.mean_batch == pytest.approx(896 / 106)
    assert one.error_share == pytest.approx(3 / 903)
    assert one.items_per_second == 90


def test_the_spread_is_the_scatter_over_the_mean() -> None:
    assert spread([Window(10), Window(10)]) == 0
    assert spread([Window(5), Window(15)]) == 0.5
    assert spread([]) == 0

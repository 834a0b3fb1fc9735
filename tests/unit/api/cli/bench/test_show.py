"""What is said besides the table: the knee, and what to doubt."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from api.cli.bench.comparison import Change
from api.cli.bench.figures import Stage, Window
from api.cli.bench.meter import Used
from api.cli.bench.show import doubts, show_changes, show_run, unsteady


def stage(clients: int, items: int, **more: object) -> Stage:
    windows = [Window(items // 2, 1.0, 2.0)] * 2
    return Stage("m", clients, 2.0, items, 1.0, 2.0, 3.0, windows=windows, **more)  # type: ignore[arg-type]


def said(stages: list[Stage], limit: float = 1e6) -> str:
    console = Console(file=io.StringIO(), width=100)
    show_run(console, stages, limit)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_knee_and_errors_by_kind_are_told() -> None:
    text = said([stage(1, 100), stage(8, 1000, errors={"429 lane-full": 3}), stage(64, 1000)])
    assert "knee: 8 clients" in text
    assert "3 x 429 lane-full" in text
    assert "try more" not in text
    assert "try more than 8" in said([stage(1, 100), stage(8, 1000)])
    assert "no result came" in said([stage(1, 0)])


@pytest.mark.parametrize(
    ("one", "limit", "doubt"),
    [
        (stage(1, 100), 60.0, "came near it"),
        (stage(1, 100, reused=7), 1e6, "7 results"),
        (stage(1, 100), 1e6, "scope admin"),
        (stage(1, 100, generator_waited=0.8), 1e6, "waited for a core 80%"),
    ],
)
def test_what_makes_figures_doubtful_is_told(one: Stage, limit: float, doubt: str) -> None:
    assert any(doubt in line for line in doubts([one], limit))


def test_a_steady_run_raises_no_doubt_but_tells_the_limit() -> None:
    calm = stage(1, 100, device_busy=0.9, generator_waited=0.1)
    assert doubts([calm], 5_000) == [
        "this generator's own limit here, against an echo: 5,000 requests/s"
    ]
    assert unsteady([calm]) == []


def test_waiting_is_a_share_of_the_time_in_which_a_core_was_needed() -> None:
    assert Used(0.0, 10.0, cpu=1.0, waited=3.0).waited_share == 0.75
    assert Used(0.0, 10.0, cpu=1.0).waited_share is None


def test_a_comparison_says_so_where_there_is_nothing_in_common() -> None:
    console = Console(file=io.StringIO(), width=100)
    show_changes(console, [])
    show_changes(console, [Change("m", 8, "p50 ms", 1.0, 1.3, 1.3, 1.2, 1.4, 0.1)])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "share no model" in text
    assert "+30.0%" in text
    assert "slower" in text

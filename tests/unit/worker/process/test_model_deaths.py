"""When a model that ends its process is taken out of service, and when another one is not."""

from __future__ import annotations

from worker.guard.marks import Evidence, Ran
from worker.process.model_deaths import ModelDeaths

LOAD_A, RUN_A, RUN_B, DECODE_A = (
    Ran("load", "a"),
    Ran("infer", "a"),
    Ran("infer", "b"),
    Ran("decode", "a"),
)


def death(*running: Ran, culprit: Ran | None = None, loaded: str = "", reset: str = "") -> Evidence:
    return Evidence(culprit, list(running), frozenset(loaded), frozenset(reset))


def out(deaths: ModelDeaths, now: float = 0.0) -> set[str]:
    return set(deaths.out_of_service(now))


def test_a_load_that_ends_its_process_three_times_is_not_tried_again() -> None:
    deaths = ModelDeaths(3, 3)
    for now in range(3):
        assert out(deaths) == set()
        assert deaths.judge(death(LOAD_A), now) == [LOAD_A]
    (reason, seconds), *_ = deaths.out_of_service(1e9).values()
    assert seconds is None
    assert "`lanefleet models load a`" in reason
    deaths.judge(death(reset="a"), 4)
    assert out(deaths) == set()


def test_a_model_that_loaded_in_between_starts_anew() -> None:
    deaths = ModelDeaths(3, 3)
    for now in range(10):
        deaths.judge(death(LOAD_A), now)
        deaths.judge(death(loaded="a"), now)
    assert out(deaths) == set()


def test_one_poisonous_job_takes_no_model_out_and_three_do_for_a_while() -> None:
    deaths = ModelDeaths(3, 3)
    for now in range(3):
        deaths.judge(death(RUN_A, loaded="ab"), now)
    assert out(deaths, 3) == set()
    for now in range(3, 9):
        deaths.judge(death(RUN_A, loaded="ab"), now)
    assert out(deaths, 9) == {"a"}
    assert out(deaths, 700) == set(), "it is tried again"
    deaths.judge(death(RUN_A, loaded="ab"), 700)
    assert out(deaths, 701) == {"a"}, "and out at once where that was no good"


def test_deaths_long_ago_do_not_count() -> None:
    deaths = ModelDeaths(3, 3)
    for times in range(100):
        deaths.judge(death(RUN_A), times * 600.0)
    assert out(deaths, 60_000) == set()


def test_the_one_that_does_it_is_out_before_its_neighbour() -> None:
    deaths = ModelDeaths(3, 3)
    while not out(deaths):
        deaths.judge(death(LOAD_A, RUN_B), 0)
        assert deaths.hold, "the next one loads before it reserves"
        deaths.judge(death(LOAD_A), 0)
        assert not deaths.hold
    assert out(deaths) == {"a"}


def test_a_process_that_says_what_held_it_is_believed() -> None:
    deaths = ModelDeaths(1, 1)
    assert deaths.judge(death(LOAD_A, RUN_B, culprit=RUN_B), 0) == [RUN_B]
    assert out(deaths) == {"b"}


def test_two_calls_of_one_model_are_one_death() -> None:
    deaths = ModelDeaths(2, 1)
    deaths.judge(death(RUN_A, DECODE_A), 0)
    assert out(deaths) == set(), "not two"
    deaths.judge(death(RUN_A), 0)
    assert out(deaths) == {"a"}


def test_without_a_limit_none_is_taken_out() -> None:
    deaths = ModelDeaths(0, 3)
    for _ in range(100):
        deaths.judge(death(LOAD_A, RUN_B), 0)
    assert out(deaths) == set()
    assert not deaths.is_bounded


def test_a_shadow_may_end_no_more_processes_than_a_load() -> None:
    deaths, shadow = ModelDeaths(3, 3), Ran("shadow", "a")
    for now in range(3):
        assert out(deaths) == set()
        deaths.judge(death(shadow, culprit=shadow, loaded="a"), now)
    assert out(deaths, 3.0) == {"a"}
    assert out(deaths, 3000.0) == set(), "it is tried again, as no job is known to be at fault"

"""How long a process took to come up, and what its garbage collector does meanwhile."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest

from worker.guard.arrival import Arrival, Pauses, resume_collecting, stop_collecting


@pytest.fixture
def _collector() -> Iterator[None]:
    callbacks = list(gc.callbacks)
    yield
    gc.enable()
    gc.unfreeze()
    gc.callbacks[:] = callbacks


def test_a_job_that_waits_makes_the_first_result_the_end_of_the_start() -> None:
    arrival = Arrival(100.0)
    arrival.look(102.0, None, loading=True, busy=False)
    arrival.look(103.0, 102.5, loading=False, busy=True)
    arrival.published(103.2, reserved=102.6)
    arrival.published(109.0, reserved=108.9)
    assert arrival.cold_start_seconds == pytest.approx(3.2)


def test_a_result_before_the_first_look_counts_as_well() -> None:
    arrival = Arrival(100.0)
    arrival.published(102.2, reserved=102.1)
    assert arrival.cold_start_seconds == pytest.approx(2.2)


def test_without_a_job_the_first_ready_model_is_the_end_of_the_start() -> None:
    arrival = Arrival(100.0)
    arrival.look(102.6, 102.5, loading=False, busy=False)
    assert arrival.cold_start_seconds is None
    arrival.look(103.6, 102.5, loading=True, busy=False)
    assert arrival.cold_start_seconds == pytest.approx(2.5)


def test_a_job_long_after_the_start_does_not_count() -> None:
    arrival = Arrival(100.0)
    arrival.look(102.6, 102.5, loading=False, busy=False)
    arrival.published(900.0, reserved=899.0)
    assert arrival.cold_start_seconds == pytest.approx(2.5)


@pytest.mark.usefixtures("_collector")
def test_nothing_is_collected_until_the_models_are_loaded_and_what_there_is_is_frozen() -> None:
    arrival, before = Arrival(100.0), len(gc.callbacks)
    stop_collecting()
    arrival.look(101.0, None, loading=True, busy=False)
    assert not gc.isenabled()
    arrival.look(102.0, 101.5, loading=False, busy=False)
    arrival.look(103.0, 101.5, loading=False, busy=False)
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000
    assert len(gc.callbacks) == before + 1


@pytest.mark.usefixtures("_collector")
def test_a_load_of_minutes_does_not_keep_the_collector_off() -> None:
    arrival = Arrival(100.0)
    stop_collecting()
    arrival.look(131.0, None, loading=True, busy=False)
    assert gc.isenabled()


@pytest.mark.usefixtures("_collector")
def test_a_long_pause_is_counted_with_its_time() -> None:
    pauses = Pauses()
    resume_collecting(pauses)
    gc.collect()  # of nothing: all is frozen
    short = pauses.count
    pauses.note("start", {})
    time.sleep(0.01)
    pauses.note("stop", {})
    assert pauses.count >= short + 1
    assert pauses.seconds >= pauses.longest_seconds >= 0.01

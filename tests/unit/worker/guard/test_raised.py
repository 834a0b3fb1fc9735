"""A fault of a model is told once, with its traceback, and then now and then."""

from __future__ import annotations

from typing import Any

import structlog.testing

from common.errors import InvalidInput
from worker.guard.raised import RaisedLog


def fault(kind: type[BaseException] = ValueError) -> BaseException:
    """One that was raised here."""
    try:
        raise kind("wrong")
    except kind as exc:
        return exc


def other_place() -> BaseException:
    try:
        raise ValueError("wrong")
    except ValueError as exc:
        return exc


def told(log: RaisedLog, *faults: tuple[str, BaseException]) -> list[Any]:
    with structlog.testing.capture_logs() as lines:
        for model, error in faults:
            log.note(model, "infer", error, job_id="one")
    return lines


def test_each_fault_is_told_once_and_again_after_a_while_with_what_was_left_out() -> None:
    now = 0.0
    log = RaisedLog(lambda: now)
    lines = told(log, *[("m", fault())] * 5)
    assert len(lines) == 1
    assert lines[0]["error"] == "ValueError: wrong"
    assert 'raise kind("wrong")' in lines[0]["traceback"]
    assert (lines[0]["verb"], lines[0]["job_id"]) == ("infer", "one")
    assert lines[0]["at"].startswith("test_raised.py:")
    assert len(told(log, ("m", other_place()), ("m", fault(TypeError)), ("n", fault()))) == 3
    now = 301.0
    assert told(log, ("m", fault()))[0]["unsaid"] == 4


def test_a_refusal_of_an_input_is_no_fault() -> None:
    assert told(RaisedLog(), ("m", fault(InvalidInput))) == []


def test_as_many_faults_are_remembered_as_there_is_room_for() -> None:
    log = RaisedLog()
    told(log, *((f"m{n}", fault()) for n in range(1000)))
    assert len(log._met) == 256

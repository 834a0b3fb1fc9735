"""What one execution does to the others of its batch when its result cannot be told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from worker.jobs.leases import FinishedJob
from worker.jobs.steps import Execution
from worker.lanes.stages import LaneStages
from worker.pipeline.finisher import Finisher


class Desk:
    """What a finisher needs of an engine and a lane; keeps what was published and let go."""

    def __init__(self) -> None:
        self.client: Any = None
        self.worker = "one"
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.published: dict[str, dict[str, Any]] = {}
        self.told: list[int] = []
        self.settled: list[str] = []
        spec = SimpleNamespace(name="m", version="1", keeps_results_seconds=0)
        self.models = SimpleNamespace(residency=SimpleNamespace(loaded_as=lambda _handler: None))
        self.lane: Any = SimpleNamespace(
            name="m",
            spec=spec,
            clock_ahead=0.0,
            result_ttl=60,
            stages=LaneStages(),
            leases=SimpleNamespace(finish=self._finish),
        )

    def _finish(self, outcomes: Sequence[FinishedJob], _ttl: int) -> list[int]:
        for outcome in outcomes:
            outcome.job_id.encode()  # as the client of Redis does
            self.published[outcome.job_id] = json.loads(outcome.meta)
        return []

    def touch(self) -> None:
        """Redis answered."""

    def on_batch(self, _lane: str, executions: Sequence[Execution]) -> None:
        self.told.append(len(executions))

    def settle(self, _lane: Any, executions: Sequence[Execution]) -> None:
        self.settled += [one.job_id for one in executions]


def execution(job_id: str, error: BaseException | None = None) -> Execution:
    """One that ran, or that the model failed with this error."""
    made = Execution(job_id.encode("utf-8", "replace"), 1, 0, job_id, 0.0)
    made.handler, made.output = SimpleNamespace(encode=lambda output: output), "fine"  # type: ignore[assignment]
    if error is not None:
        made.fail("infer", error)
    return made


def finish(desk: Desk, *batches: Sequence[Execution]) -> Finisher:
    """Let a finisher publish these to the end."""
    finisher = Finisher(desk)  # type: ignore[arg-type]
    finisher.start()
    for batch in batches:
        finisher.put(desk.lane, batch)
    finisher.stop(5)
    return finisher


class Mute(Exception):
    """Cannot say what it is about."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\ud800"), "infer failed: ValueError: ?"),
        (Mute(), "infer failed: Mute: what it says cannot be read"),
    ],
)
def test_an_error_that_is_no_text_costs_no_other_result(error: Exception, said: str) -> None:
    desk = Desk()
    finisher = finish(desk, [execution("good"), execution("bad", error)])
    assert desk.published["good"]["result"] == "fine"
    assert desk.published["bad"]["lanefleet"]["error"] == said
    assert desk.published["bad"]["result"]["exc_type"] == type(error).__name__
    assert (finisher.finished, finisher.pending) == (2, 0)
    assert desk.told == [2]


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_a_result_that_cannot_be_written_is_lost_alone(error: Exception | None) -> None:
    """Of a message whose id is no UTF-8, which another client may send."""
    desk = Desk()
    finisher = finish(desk, [execution("good"), execution("\ud800", error)])
    assert list(desk.published) == ["good"]
    assert finisher.finished == 1
    assert desk.settled == ["good", "\ud800"], "its lease lapses"


def test_a_listener_that_raises_does_not_end_the_thread() -> None:
    desk = Desk()

    def raises(_lane: str, _executions: Sequence[Execution]) -> None:
        raise RuntimeError("nobody listens")

    desk.on_batch = raises  # type: ignore[method-assign]
    began = time.monotonic()
    finisher = finish(desk, [execution("first")], [execution("second")])
    assert time.monotonic() - began < 4
    assert list(desk.published) == desk.settled == ["first", "second"]
    assert finisher.pending == 0

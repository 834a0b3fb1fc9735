"""What the device is told to do next: one lane state a case, no thread and no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.catalog import ModelSpec
from worker.batching.batcher import Batch
from worker.batching.turns import Turns
from worker.jobs.execution import Execution
from worker.lanes.device_time import Idle
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.lanes.step import Step
from worker.lanes.work import DeviceTask, RunBatch, RunStep, Wait
from worker.pipeline.scheduler import Scheduler

NOW = 1000.0
HANDLER: Any = object()


class Models:
    """A model host with nothing to do but what a case says."""

    def __init__(self) -> None:
        self.tasks: list[Callable[[], object]] = []
        self.opened: list[str] = []
        self.bringing_in = False
        self.openable = True
        self.residency = self
        self.used: list[str] = []

    def next_task(self) -> Callable[[], object] | None:
        return self.tasks.pop(0) if self.tasks else None

    def is_bringing_in(self) -> bool:
        return self.bringing_in

    def may_open(self, _model: str, _now: float) -> bool:
        return self.openable

    def load_seconds(self, _model: str) -> float:
        return 1.0

    def open(self, model: str) -> None:
        self.opened.append(model)

    def touch(self, model: str) -> None:
        self.used.append(model)


class Fleet:
    """Two lanes, `a` and `b`, of batches of two, whose model is here."""

    def __init__(self, kind: type[Lane] = Lane) -> None:
        lanes = {}
        for name in ("a", "b"):
            spec = ModelSpec(name=name, handler="echo", max_batch=2, max_wait_ms=10)
            lanes[name] = kind(
                name, spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=64
            )
            lanes[name].serve(spec, HANDLER)
            lanes[name].ready = False
        self.models = Models()
        self.state = WorkerState(lanes)
        self.turns = Turns(8, 0.2)
        self.scheduler = Scheduler(self.state, self.turns, self.models)  # type: ignore[arg-type]

    def give(self, lane: str, *names: str, at: float = NOW - 1) -> list[Execution]:
        """Have these wait, decoded, since then."""
        made = []
        for name in names:
            one = Execution(name.encode() + b":1", 1, 0, name, at)
            one.handler = HANDLER
            made.append(one)
            self.state.lanes[lane].waiting += 1
            self.state.lanes[lane].add(one, at)
        return made

    def next(self, device_idle: bool = True) -> Any:
        with self.state.changed:
            return self.scheduler.next(NOW, device_idle)


def ids(work: RunBatch) -> list[str]:
    return [one.job_id for one in work.batch]


def test_a_device_task_goes_before_every_batch() -> None:
    fleet = Fleet()
    fleet.give("a", "1", "2")
    fleet.models.tasks.append(lambda: None)
    assert isinstance(fleet.next(), DeviceTask)
    assert ids(fleet.next()) == ["1", "2"]


def test_a_batch_that_is_taken_no_longer_waits_and_is_running() -> None:
    fleet = Fleet()
    taken = fleet.give("a", "1", "2", "3")[:2]
    work = fleet.next()
    assert isinstance(work, RunBatch)
    assert (work.lane.name, list(work.batch)) == ("a", taken)
    assert fleet.state.lanes["a"].waiting == 1
    assert fleet.state.running == {one.tag for one in taken}
    assert fleet.turns.current == "a"


@pytest.mark.parametrize(("unpublished", "starved", "runs"), [(3, 0, True), (4, 0, False)])
def test_nothing_runs_while_too_many_results_are_unpublished(
    unpublished: int, starved: float, runs: bool
) -> None:
    fleet = Fleet()
    fleet.give("a", "1", "2")
    fleet.state.unpublished_batches = unpublished
    work = fleet.next()
    assert isinstance(work, RunBatch) == runs
    assert runs or work == Wait("publishing", None)


@pytest.mark.parametrize(("until", "runs"), [(NOW + 0.5, False), (NOW - 0.5, True)])
def test_fewer_may_be_unpublished_while_a_tenant_is_starved(until: float, runs: bool) -> None:
    fleet = Fleet()
    fleet.give("a", "1", "2")
    fleet.state.unpublished_batches, fleet.state.starved_until = 2, until
    assert isinstance(fleet.next(), RunBatch) == runs


def test_failures_on_their_way_out_do_not_stop_the_device() -> None:
    fleet = Fleet()
    for _ in range(5):
        fleet.state.submitted(ran=False)
    fleet.give("b", "good")
    assert ids(fleet.next()) == ["good"]


def test_a_suspect_gets_the_device_alone_though_another_lane_is_always_full() -> None:
    fleet = Fleet()
    fleet.give("a", "1", "2", "3", "4")
    suspect = Execution(b"suspect:1", 2, 0, "suspect", NOW - 5)
    fleet.state.lanes["b"].suspects.append(suspect)
    assert isinstance(fleet.next(device_idle=False), Wait), "the device must come to rest first"
    work = fleet.next()
    assert ids(work) == ["suspect"]
    assert not work.batch.regular


def test_the_next_batch_may_follow_one_that_is_on_the_device() -> None:
    fleet = Fleet()
    fleet.give("a", "1", "2")
    assert ids(fleet.next(device_idle=False)) == ["1", "2"]
    fleet.give("a", "3", at=NOW)
    assert isinstance(fleet.next(device_idle=False), Wait), "one of two is worth the short wait"
    assert ids(fleet.next()) == ["3"]


def test_the_lane_that_waited_longest_goes_first() -> None:
    fleet = Fleet()
    fleet.give("a", "late", at=NOW - 1)
    fleet.give("b", "early", at=NOW - 2)
    assert [fleet.next().lane.name for _ in range(2)] == ["b", "a"]


@pytest.mark.parametrize("openable", [True, False])
def test_a_model_that_is_not_here_is_opened_for_its_work(openable: bool) -> None:
    fleet = Fleet()
    lane = fleet.state.lanes["b"]
    lane.serve(lane.spec, None)
    lane.wanted_since = NOW - 10
    fleet.models.openable = openable
    assert fleet.next() == Wait("no_work", 1.0), "and its turn comes again"
    assert fleet.models.opened == (["b"] if openable else [])


def test_what_opening_a_model_asks_of_the_device_is_done_at_once() -> None:
    fleet = Fleet()
    lane = fleet.state.lanes["b"]
    lane.serve(lane.spec, None)
    lane.wanted_since = NOW - 10
    fleet.models.open = lambda _model: fleet.models.tasks.append(print)  # type: ignore[method-assign]
    assert fleet.next() == DeviceTask(print)


def test_the_device_sleeps_until_a_batch_is_due_whatever_comes() -> None:
    fleet = Fleet()
    fleet.give("a", "1", at=NOW - 0.004)
    fleet.state.lanes["a"].decoding = 1
    work = fleet.next()
    assert work.cause == "company"
    assert work.seconds == pytest.approx(0.006, abs=1e-6)


def set_up(fleet: Fleet, **lane: Any) -> None:
    for name, value in lane.items():
        setattr(fleet.state.lanes["a"], name, value)


@pytest.mark.parametrize(
    ("lane", "bringing_in", "cause"),
    [
        ({"waiting": 1, "asking": True}, True, "decoding"),
        ({"fetching": 1}, True, "decoding"),
        ({"asking": True}, True, "loading"),
        ({"asking": True}, False, "reserving"),
        ({"ready": True}, False, "reserving"),
        ({"ready": True, "closing": True}, False, "no_work"),
        ({}, False, "no_work"),
    ],
)
def test_an_idle_device_knows_what_it_waits_for(
    lane: dict[str, Any], bringing_in: bool, cause: Idle
) -> None:
    fleet = Fleet()
    set_up(fleet, **lane)
    fleet.models.bringing_in = bringing_in
    assert fleet.next() == Wait(cause, None)


def test_only_what_the_batcher_formed_teaches_it_what_a_batch_takes() -> None:
    fleet = Fleet()
    lane, one = fleet.state.lanes["a"], fleet.give("a", "1")[0]
    for _ in range(10):
        fleet.scheduler.ran(lane, Batch.single(one, 1.0), 0.5)
    assert lane.batcher.time.typical == 0.0
    for _ in range(10):
        fleet.scheduler.ran(lane, Batch([one], 1.0), 0.5)
    assert lane.batcher.time.typical > 0.0
    assert fleet.models.used == ["a"] * 20


class SteppingLane(Lane):
    """A lane whose jobs stay on the device; as text generation will be."""

    slots = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stepped_at = NOW - 3
        self.on_device: list[Execution] = []

    def oldest(self) -> float | None:
        return self.stepped_at if self.on_device else super().oldest()

    def next_work(self, now: float, device_idle: bool) -> Batch[Execution] | Step | None:
        joining = list(self.batcher.next_batch(now, device_idle=True))
        if not (joining or self.on_device):
            return None
        self.on_device += joining
        self.stepped_at = now
        return Step(joining)


def test_a_lane_of_steps_takes_turns_and_goes_on_with_nothing_new() -> None:
    fleet = Fleet(SteppingLane)
    fleet.give("a", "1", "2", at=NOW - 2)
    first = fleet.next()
    assert isinstance(first, RunStep)
    assert [one.job_id for one in first.step.joining] == ["1", "2"]
    assert fleet.state.lanes["a"].waiting == 0
    assert fleet.state.running == {b"1:1", b"2:1"}
    assert fleet.next() == RunStep(fleet.state.lanes["a"], Step([])), "those on the device go on"
    fleet.give("b", "other", at=NOW - 9)
    assert fleet.next().lane.name == "b", "and others get their turn between two steps"


class Shadows:
    """One shadow batch, and another that is due in a quarter of a second."""

    def __init__(self) -> None:
        self.tasks: list[Callable[[], None]] = [lambda: None]

    def next_task(self, _now: float) -> Callable[[], None] | None:
        return self.tasks.pop() if self.tasks else None

    def due_in(self, _now: float) -> float | None:
        return 0.25


def test_a_shadow_runs_only_while_no_job_is_known_to_wait() -> None:
    fleet = Fleet()
    shadows: Any = Shadows()
    fleet.scheduler = Scheduler(fleet.state, fleet.turns, fleet.models, shadows)  # type: ignore[arg-type]
    lane = fleet.state.lanes["a"]
    lane.waiting = 1
    assert fleet.next() == Wait("decoding", None)
    lane.waiting = 0
    lane.ready = True
    assert fleet.next() == Wait("reserving", None)
    lane.ready = False
    assert fleet.next(device_idle=False) == Wait("no_work", None)
    fleet.give("a", "1")
    assert ids(fleet.next()) == ["1"]
    work = fleet.next()
    assert isinstance(work, DeviceTask)
    assert work.counts_as == "shadow"
    assert fleet.next() == Wait("no_work", 0.25), "the next is not due yet"

"""Batches in progress: what the device thread does while a device works by itself."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import pytest

from common.catalog import ModelSpec
from tests.support.models import calls
from tests.support.stack import wait_until
from worker.batching.batcher import Batch
from worker.guard.calls import Call, Slot
from worker.jobs.execution import Disposition, Execution, Retry
from worker.lanes.device_time import DeviceTime
from worker.lanes.lane import Lane
from worker.lanes.state import WorkerState
from worker.lanes.step import Step
from worker.lanes.work import DeviceTask, RunBatch, RunStep, Wait, Work
from worker.pipeline.error_policy import Retries
from worker.pipeline.runner import Runner
from worker.pipeline.starting import Starting
from worker.transfer import Later


class Device:
    """Works by itself; is done with a batch once the test or a waiter says so."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.waiting: list[Later] = []

    def infer(self, items: Sequence[str]) -> Later:
        name = "+".join(items)
        if "full" in items and len(items) > 1:
            raise RuntimeError("CUDA out of memory (on request)")
        if "huge" in items:
            raise RuntimeError("CUDA out of memory (one is too large)")
        self.log.append(f"start {name}")

        def wait() -> list[str]:
            self.log.append(f"wait {name}")
            if "huge later" in items:
                raise RuntimeError("CUDA out of memory (one is too large)")
            if "bad" in items:
                raise ValueError("the device failed")
            if "lost" in items:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return [item.upper() for item in items]

        later = Later(lambda: True, wait, lambda: 0.001)
        self.waiting.append(later)
        return later


class Bench:
    """A runner's neighbours: work in order, and where it puts what is done."""

    def __init__(self, handler: Any, work: list[Any]) -> None:
        self.work = work
        self.device = handler
        self.done: list[tuple[str | None, Disposition | None]] = []
        self.asked: list[bool] = []
        self.taken: list[str] = []
        self.ended: list[str] = []
        self.lost = 0
        self.revoked: set[str] = set()
        self.stuck: list[Call] = []
        self.device_time = DeviceTime(time.monotonic())
        spec = ModelSpec(name="m", handler="echo", max_batch=8)
        self.lane = Lane("m", spec, result_ttl_seconds=60, look_ahead_jobs=256, max_fetching=8)
        self.state = WorkerState({"m": self.lane})
        self.runner = Runner(
            self.state,
            Starting(self.state, {}, self, None, self.is_revoked),  # type: ignore[arg-type]
            scheduler=self,  # type: ignore[arg-type]
            finisher=self,  # type: ignore[arg-type]
            device_time=self.device_time,
            calls=calls(),
            on_device_lost=self._device_lost,
            on_stuck=self.on_stuck,
            retries=Retries(3),
        )

    def is_revoked(self, job_id: str) -> bool:
        """As Celery's list of revoked tasks."""
        return job_id in self.revoked

    def run(self) -> None:
        """Let it do the work to its end."""
        self.runner.start()
        self.runner.join(60)

    def next(self, now: float, device_idle: bool) -> Work:
        """As the scheduler."""
        self.asked.append(not device_idle)
        if device_idle and not self.work:
            self.state.stopping.set()
        item = self.work.pop(0) if self.work else None
        if item is None:
            return Wait("no_work", 0.0)
        if isinstance(item, Step):
            return RunStep(self.lane, item)
        return DeviceTask(item) if callable(item) else RunBatch(self.lane, self.batch(item))

    def ran(self, _lane: Lane, _batch: Any, _seconds: float) -> None:
        """As the scheduler."""

    def submit_batch(self, lane: Lane, executions: Sequence[Execution], _ms: float) -> None:
        """As the finisher."""
        self.submit_ended(lane, executions)

    def submit_ended(self, _lane: Lane, executions: Sequence[Execution]) -> None:
        """As the finisher."""
        self.done += [(one.output, one.disposition) for one in executions]
        self.device.log += [f"out {one.job_id}" for one in executions]
        self.ended += [one.job_id for one in executions]

    @property
    def lapsed(self) -> list[str]:
        """Whose leases were left to lapse."""
        held = [one.job_id for one in self.lane.in_hand.values()]
        return [name for name in self.taken if name not in held and name not in self.ended]

    def batch(self, names: Sequence[str]) -> Batch[Execution]:
        executions = [Execution(name.encode(), 1, 0, name, 0.0) for name in names]
        for one in executions:
            one.item, one.handler = one.job_id, self.device
            self.lane.in_hand[one.tag] = one
        self.taken += names
        return Batch(executions, float(len(executions)))

    def on_stuck(self, _slot: Slot, call: Call) -> None:
        """As the departure."""
        self.stuck.append(call)

    def _device_lost(self, _model: str) -> None:
        self.lost += 1
        self.state.stopping.set()


def run(*work: Sequence[str] | Callable[[], object] | None) -> tuple[Device, Bench]:
    """Let a runner do this work to its end."""
    device = Device()
    bench = Bench(device, list(work))
    bench.run()
    return device, bench


def test_the_next_batch_is_started_before_the_last_is_waited_for() -> None:
    device, bench = run(["a", "b"], ["c"], ["d"])
    assert [line for line in device.log if not line.startswith("out")] == [
        "start a+b",
        "start c",
        "wait a+b",
        "start d",
        "wait c",
        "wait d",
    ]
    assert [output for output, _ in bench.done] == ["A", "B", "C", "D"]
    assert bench.asked == [False, True, True, True, False], "it says whether one is in progress"
    assert bench.state.running == frozenset()
    assert not bench.device_time.is_busy
    assert bench.lane.stats.sizes == {2: 1, 1: 2}


def test_a_device_task_finds_the_device_empty() -> None:
    device = Device()
    bench = Bench(device, [["a"], lambda: device.log.append("task"), ["b"]])
    bench.run()
    assert device.log.index("wait a") < device.log.index("task") < device.log.index("start b")


def test_what_fails_on_the_device_is_tried_alone_and_its_mates_succeed() -> None:
    device, bench = run(["a", "bad", "b"], ["c", "d"])
    outcome = {output or "failed": settled for output, settled in bench.done}
    assert set(outcome) == {"A", "B", "C", "D", "failed"}
    assert outcome["failed"] == "failed" or isinstance(outcome["failed"], Retry)
    assert len(bench.done) == 5, "each exactly once"
    assert "start c+d" in device.log


def test_out_of_memory_at_the_start_waits_for_the_one_in_progress_and_halves() -> None:
    device, bench = run(["a"], ["full", "b", "c", "d"], ["e"])
    assert device.log.index("out a") < device.log.index("start full")
    assert sorted(output or "" for output, _ in bench.done) == ["A", "B", "C", "D", "E", "FULL"]
    assert bench.lane.limits.max_batch < 8
    assert not bench.device_time.is_busy


def test_a_device_that_is_lost_ends_the_process_and_charges_nobody() -> None:
    _, bench = run(["a"], ["lost", "b"])
    assert [output for output, _ in bench.done] == ["A"]
    held = [one.job_id for one in bench.lane.in_hand.values() if not one.disposition]
    assert [one for one in held if one != "a"] == ["lost", "b"], "released at the end, for others"
    assert bench.lost == 1


def test_a_fault_of_ours_in_finding_work_ends_the_process_too() -> None:
    device = Device()
    bench = Bench(device, [["a"]])
    bench.next = lambda _now, _idle: bench.work[1]  # type: ignore[method-assign]
    bench.run()
    assert bench.lost == 1


@pytest.mark.parametrize("culprit", ["huge", "huge later"])
@pytest.mark.parametrize("place", [0, 3])
def test_one_that_is_too_large_alone_does_not_keep_the_batches_small(
    culprit: str, place: int
) -> None:
    names = ["a", "b", "c"]
    names.insert(place, culprit)
    _, bench = run(["x"], names, ["y", "z"])
    assert sorted(output for output, _ in bench.done if output) == ["A", "B", "C", "X", "Y", "Z"]
    assert len(bench.done) == 7, "each exactly once"
    assert bench.lane.limits.max_batch == 8


def test_one_that_was_never_in_a_batch_leaves_the_cap_alone() -> None:
    _, bench = run(["huge"])
    assert isinstance(bench.done[0][1], Retry)
    assert len(bench.done) == 1
    assert bench.lane.limits.max_batch == 8


def test_the_cap_goes_back_only_as_far_as_the_size_was_not_the_reason() -> None:
    _, bench = run(["full", "a", "b", "c"], ["huge", "d"])
    assert bench.lane.limits.max_batch == 1, "the first batch ran once its size was 1"
    _, bench = run(["huge", "d"], ["full", "a", "b", "c"])
    assert bench.lane.limits.max_batch == 1


def test_an_error_that_does_not_say_what_it_is_is_judged_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    class Broken(Device):
        def infer(self, items: Sequence[str]) -> Later:
            if "mute" in items:
                raise Mute
            return super().infer(items)

    device = Broken()
    bench = Bench(device, [["a", "mute"]])
    bench.run()
    assert len(bench.done) == 2
    assert ("A", None) in bench.done
    assert bench.lost == 0


def test_a_driver_that_raises_when_asked_counts_as_done() -> None:
    class Raises(Device):
        def infer(self, items: Sequence[str]) -> Later:
            later = super().infer(items)

            def broken() -> bool:
                raise RuntimeError("CUDA error: device-side assert triggered")

            return Later(broken, later.wait, later.device_seconds)

    bench = Bench(Raises(), [["a"]])
    bench.run()
    assert bench.done == [("A", None)]


def test_a_driver_that_cannot_say_how_long_it_took_leaves_no_job_behind() -> None:
    class Raises(Device):
        def infer(self, items: Sequence[str]) -> Later:
            later = super().infer(items)

            def broken() -> float:
                raise RuntimeError("the event was never recorded")

            return Later(later.done, later.wait, broken if "bad clock" in items else lambda: 0.1)

    bench = Bench(Raises(), [["bad clock"], ["b"]])
    bench.run()
    assert sorted(bench.ended) == ["b", "bad clock"], "each of them, once"
    assert ("B", None) in bench.done
    assert bench.lapsed == []


def test_a_step_finds_the_device_empty_and_is_run_by_whom_it_is_given_to() -> None:
    device = Device()
    bench = Bench(device, [["a"], Step()])
    bench.runner._run_step = lambda work: device.log.append(f"step {work.lane.name}")
    bench.run()
    assert device.log == ["start a", "wait a", "out a", "step m"]


def test_a_cancel_while_a_batch_is_sorted_out_leaves_no_job_behind() -> None:
    device = Device()
    bench = Bench(device, [["a", "b", "c"]])
    bench.revoked.add("a")
    submit = bench.submit_ended

    def canceled_meanwhile(lane: Lane, executions: Sequence[Execution]) -> None:
        bench.state.leases_lost(lane, [b"b"])
        submit(lane, executions)

    bench.submit_ended = canceled_meanwhile  # type: ignore[method-assign]
    bench.run()
    assert sorted(bench.ended) == ["a", "b", "c"], "each of them, once"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), CancelledError()])
@pytest.mark.parametrize("place", ["start", "wait", "done", "seconds"])
def test_an_exit_that_a_model_asks_for_costs_its_job_alone(
    error: BaseException, place: str
) -> None:
    class Exits(Device):
        def infer(self, items: Sequence[str]) -> Later:
            if "bad" not in items:
                return super().infer(items)

            def exit_() -> Any:
                raise error

            if place == "start":
                exit_()
            later = super().infer([*items, "not bad"])
            return Later(
                exit_ if place == "done" else later.done,
                exit_ if place in ("wait", "done") else lambda: items,
                exit_ if place == "seconds" else later.device_seconds,
            )

    bench = Bench(Exits(), [["a", "bad", "b"], ["c"]])
    bench.run()
    assert sorted(bench.ended) == ["a", "b", "bad", "c"]
    assert [output for output, settled in bench.done if settled is None].count("C") == 1
    assert sum(isinstance(settled, Retry) for _, settled in bench.done) == 1
    assert bench.lost == 0


@pytest.mark.parametrize("place", ["start", "wait"])
def test_a_run_that_does_not_end_is_reported_with_its_batch(place: str) -> None:
    leave, began = Event(), time.monotonic()

    class Hangs(Device):
        def infer(self, items: Sequence[str]) -> Later:
            if place == "start":
                leave.wait(20)

            def wait() -> list[str]:
                leave.wait(20)
                return list(items)

            return Later(lambda: place == "start", wait, lambda: 0.1)

    bench = Bench(Hangs(), [["a", "b"]])
    bench.runner.start()

    def stuck() -> bool:
        bench.runner.look(began + 121)
        return bool(bench.stuck)

    wait_until(stuck, 10, "the report")
    call = bench.stuck[0]
    assert (call.verb, [one.job_id for one in call.about]) == ("infer", ["a", "b"])
    leave.set()
    bench.state.stopping.set()
    bench.runner.join(10)

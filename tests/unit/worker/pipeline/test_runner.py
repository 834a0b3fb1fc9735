"""Batches in flight: what the device thread does while a device works by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from worker.batching.batcher import Batch, BatchLimits
from worker.jobs.steps import Execution
from worker.lanes.stages import DeviceTime, LaneStages
from worker.pipeline.runner import Runner
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

        later = Later(lambda: False, wait, lambda: 0.001)
        self.waiting.append(later)
        return later


class Desk:
    """What a runner needs of an engine: work in order, and where it puts what is done."""

    def __init__(self, handler: Any, work: list[Any]) -> None:
        self.work = work
        self.device = handler
        self.done: list[tuple[str | None, str | None]] = []
        self.asked: list[bool] = []
        self.settled: list[str] = []
        self.broken = 0
        self.device_time = DeviceTime(time.monotonic())
        self.changed = threading.Condition()
        self.settings = SimpleNamespace(max_attempts=3)
        self.reaper = SimpleNamespace(look_at_aliases=lambda: None)
        self.models = SimpleNamespace(
            begin=lambda: None, residency=SimpleNamespace(touch=lambda _name: None)
        )
        self.finisher = SimpleNamespace(put=self._put)
        self.lane = SimpleNamespace(
            name="m",
            spec=SimpleNamespace(name="m"),
            limits=BatchLimits(8, 10.0),
            stages=LaneStages(),
            sizes={},
            run_seconds=0.0,
            batcher=SimpleNamespace(observe=lambda _cost, _seconds: None),
            server_time=time.time,
        )

    def is_revoked(self, _job_id: str) -> bool:
        return False

    def _put(self, _lane: Any, executions: Sequence[Execution], _infer_ms: float = 0.0) -> None:
        self.done += [(one.output, one.settled) for one in executions]
        self.device.log += [f"out {one.job_id}" for one in executions]

    def settle(self, _lane: Any, executions: Sequence[Execution]) -> None:
        self.settled += [one.job_id for one in executions]

    def break_down(self) -> None:
        self.broken += 1

    def take_work(self, on_device: Later | None) -> Any:
        self.asked.append(on_device is not None)
        if not self.work:
            return None
        item = self.work.pop(0)
        return item if item is None or callable(item) else (self.lane, self.batch(item))

    def batch(self, names: Sequence[str]) -> Batch[Execution]:
        executions = [Execution(name.encode(), 1, 0, name, 0.0) for name in names]
        for one in executions:
            one.item, one.handler = one.job_id, self.device
        return Batch(executions, float(len(executions)))


def run(*work: Sequence[str] | Callable[[], object] | None) -> tuple[Device, Desk, Runner]:
    """Let a runner do this work to its end."""
    device = Device()
    desk = Desk(device, list(work))
    runner = Runner(desk)  # type: ignore[arg-type]
    runner.start()
    runner.join(5)
    return device, desk, runner


def test_the_next_batch_is_started_before_the_last_is_waited_for() -> None:
    device, desk, runner = run(["a", "b"], ["c"], ["d"])
    assert [line for line in device.log if not line.startswith("out")] == [
        "start a+b",
        "start c",
        "wait a+b",
        "start d",
        "wait c",
        "wait d",
    ]
    assert [output for output, _ in desk.done] == ["A", "B", "C", "D"]
    assert desk.asked == [False, True, True, True, False], "it says whether one is in flight"
    assert runner.current == set()
    assert not desk.device_time.is_busy
    assert desk.lane.sizes == {2: 1, 1: 2}


def test_an_errand_finds_the_device_empty() -> None:
    device = Device()
    desk = Desk(device, [["a"], lambda: device.log.append("errand"), ["b"]])
    runner = Runner(desk)  # type: ignore[arg-type]
    runner.start()
    runner.join(5)
    assert device.log.index("wait a") < device.log.index("errand") < device.log.index("start b")


def test_what_fails_on_the_device_is_tried_alone_and_its_mates_succeed() -> None:
    device, desk, _ = run(["a", "bad", "b"], ["c", "d"])
    outcome = {output or "failed": settled for output, settled in desk.done}
    assert set(outcome) == {"A", "B", "C", "D", "failed"}
    assert outcome["failed"] in ("failed", "parked")
    assert len(desk.done) == 5, "each exactly once"
    assert "start c+d" in device.log


def test_out_of_memory_at_the_start_waits_for_the_one_in_flight_and_halves() -> None:
    device, desk, _ = run(["a"], ["full", "b", "c", "d"], ["e"])
    assert device.log.index("out a") < device.log.index("start full")
    assert sorted(output or "" for output, _ in desk.done) == ["A", "B", "C", "D", "E", "FULL"]
    assert desk.lane.limits.max_batch < 8
    assert not desk.device_time.is_busy


def test_a_device_that_is_lost_ends_the_process_and_charges_nobody() -> None:
    _, desk, _ = run(["a"], ["lost", "b"])
    assert [output for output, _ in desk.done] == ["A"]
    assert desk.settled == ["lost", "b"], "their leases lapse, and others run them"
    assert desk.broken == 1


def test_a_fault_of_ours_in_finding_work_ends_the_process_too() -> None:
    device = Device()
    desk = Desk(device, [["a"]])
    desk.take_work = lambda _on_device: desk.work[1]  # type: ignore[method-assign]
    runner = Runner(desk)  # type: ignore[arg-type]
    runner.start()
    runner.join(5)
    assert desk.broken == 1


@pytest.mark.parametrize("culprit", ["huge", "huge later"])
@pytest.mark.parametrize("place", [0, 3])
def test_one_that_is_too_large_alone_does_not_keep_the_batches_small(
    culprit: str, place: int
) -> None:
    names = ["a", "b", "c"]
    names.insert(place, culprit)
    _, desk, _ = run(["x"], names, ["y", "z"])
    assert sorted(output for output, _ in desk.done if output) == ["A", "B", "C", "X", "Y", "Z"]
    assert len(desk.done) == 7, "each exactly once"
    assert desk.lane.limits.max_batch == 8


def test_one_that_was_never_in_a_batch_leaves_the_cap_alone() -> None:
    _, desk, _ = run(["huge"])
    assert [settled for _, settled in desk.done] == ["parked"]
    assert desk.lane.limits.max_batch == 8


def test_the_cap_goes_back_only_as_far_as_the_size_was_not_the_reason() -> None:
    _, desk, _ = run(["full", "a", "b", "c"], ["huge", "d"])
    assert desk.lane.limits.max_batch == 1, "the first batch ran once its size was 1"
    _, desk, _ = run(["huge", "d"], ["full", "a", "b", "c"])
    assert desk.lane.limits.max_batch == 1


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
    desk = Desk(device, [["a", "mute"]])
    runner = Runner(desk)  # type: ignore[arg-type]
    runner.start()
    runner.join(5)
    assert len(desk.done) == 2
    assert ("A", None) in desk.done
    assert desk.broken == 0

"""What a recording of the device's thread tells, and when there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.profiling.local_socket import LocalRefused
from worker.observability.device_trace import DeviceTrace, top_rows


def operation(name: str, cpu_us: float, device_us: float = 0.0) -> Any:
    return SimpleNamespace(
        key=name,
        count=3,
        input_shapes=[[2, 3], [], [3]],
        self_cpu_time_total=cpu_us,
        self_device_time_total=device_us,
        self_cpu_memory_usage=2_000_000,
        self_device_memory_usage=5_000_000,
    )


def test_the_ten_longest_are_told_with_shapes_share_and_memory() -> None:
    rows = top_rows([operation(f"op{n}", n * 1000.0) for n in range(20)], on_gpu=False)
    assert [one["operation"] for one in rows] == [f"op{n}" for n in range(19, 9, -1)]
    assert rows[0] == {
        "operation": "op19",
        "shapes": [[2, 3], [3]],
        "calls": 3,
        "ms": 19.0,
        "share": 0.1,
        "mb": 2.0,
    }


def test_on_a_gpu_its_time_and_memory_count() -> None:
    rows = top_rows([operation("host", 9_000), operation("kernel", 10, 4_000)], on_gpu=True)
    assert [(one["operation"], one["ms"], one["mb"]) for one in rows] == [("kernel", 4.0, 5.0)]


def test_a_worker_without_torch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    trace = DeviceTrace(lambda _task: None, "cpu", tmp_path)
    with pytest.raises(LocalRefused, match="torch"):
        trace.answer({"seconds": 1}, 1)


def test_what_fails_on_the_device_is_told_and_another_may_record(tmp_path: Path) -> None:
    trace = DeviceTrace(lambda task: task(), "cpu", tmp_path)

    def fail() -> None:
        raise RuntimeError("no CUPTI")

    for _ in range(2):
        with pytest.raises(LocalRefused, match="no CUPTI"):
            trace._on_device(fail)

"""The GPU benchmark's arithmetic, and its offline loop on the CPU; the rest needs a GPU."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from tests.benchmarks import gpu, gpu_offline
from tests.benchmarks.report import Table


class Doubler:
    """A model for the loop."""

    def decode(self, value: bytes, _params: Any) -> int:
        return len(value)

    def infer(self, items: list[int]) -> list[int]:
        return [2 * item for item in items]


@pytest.mark.parametrize("decoded", [True, False])
def test_the_offline_loop_runs_every_picture(decoded: bool) -> None:
    model: Any = Doubler()
    found = gpu_offline.loop(model, 5, 2, decoded=decoded)
    assert found["images_per_second"] > 0
    assert set(found) == {"images_per_second", "busy", "decode_ms", "fill"}


def test_a_sample_is_what_happened_between_two_reports_less_the_time_without_work() -> None:
    def report(seconds: float, no_work: float, lane: Any) -> Any:
        return {
            "device_time": {"seconds": seconds, "idle": {"no_work": no_work}},
            "lanes": {"resnet50": lane},
        }

    before = report(10.0, 8.0, {"stages": {}, "jobs": 0, "room": 0})
    stages = {"infer": {"seconds": 1.5}, "decode": {"seconds": 3.0}}
    after = report(20.0, 16.0, {"stages": stages, "jobs": 100, "room": 128})
    found = gpu._between(before, after, 100)
    assert found == {"images_per_second": 50.0, "busy": 0.75, "decode_ms": 30.0, "fill": 100 / 128}


def test_the_table_says_which_bound_applies_and_asks_for_a_busy_gpu_only_where_it_can_be() -> None:
    def filled(decode_ms: float) -> Table:
        table = Table("gpu", "", [""])
        row = {"images_per_second": 900.0, "busy": 0.95, "decode_ms": decode_ms, "fill": 1.0}
        alone = {**row, "images_per_second": 1000.0}
        gpu._fill(table, {gpu.OURS: row, gpu.OFFLINE: row, gpu.DECODED: alone})
        return table

    slow, fast = filled(decode_ms=1e6), filled(decode_ms=1e-3)
    assert "decoding is the bound" in slow.notes[0]
    assert len(slow.targets) == 1
    assert "the GPU is the bound" in fast.notes[0]
    assert len(fast.targets) == 2

"""What a quantization may take: time, disk, and inputs by which ranges are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigurationError
from common.settings import Settings
from worker.tools.quantizing.bounds import Bounds
from worker.tools.quantizing.graph import Calibration, _Reader


def test_a_search_ends_with_the_setting_that_ended_it(tmp_path: Path) -> None:
    now = 0.0
    bounds = Bounds(Settings(quantize_seconds=60), tmp_path, lambda: now)
    bounds.check()
    now = 61.0
    with pytest.raises(ConfigurationError, match="60 s; raise LANEFLEET_QUANTIZE_SECONDS"):
        bounds.check()


def test_its_tries_take_no_more_of_the_disk_than_they_may(tmp_path: Path) -> None:
    bounds = Bounds(Settings(quantize_disk_mb=1), tmp_path, lambda: 0.0)
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "model.onnx").write_bytes(bytes(900_000))
    bounds.check()
    (tmp_path / "base.onnx").write_bytes(bytes(200_000))
    with pytest.raises(ConfigurationError, match=r"1\.1 MB .* raise LANEFLEET_QUANTIZE_DISK_MB"):
        bounds.check()


def test_ranges_are_by_what_was_read_until_the_time_was_up() -> None:
    now = 0.0
    feeds = [{"x": np.zeros(1)}] * 3
    calibration = Calibration(feeds, 10.0, lambda: now)
    reader = _Reader(calibration)
    assert reader.get_next() is not None
    assert reader.get_next() is not None
    now = 11.0
    assert reader.get_next() is None
    assert calibration.notes() == [
        "ranges by 2 of 3 inputs: LANEFLEET_CALIBRATION_SECONDS had passed"
    ]


def test_one_input_is_read_however_late_it_is() -> None:
    clock = iter([0.0, 99.0, 99.0])
    calibration = Calibration([{"x": np.zeros(1)}] * 2, 1.0, lambda: next(clock))
    reader = _Reader(calibration)
    assert reader.get_next() is not None
    assert reader.get_next() is None

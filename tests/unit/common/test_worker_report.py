"""When a worker is as ready as it will be without work."""

from __future__ import annotations

import pytest

from common.worker_report import LaneReport


@pytest.mark.parametrize(
    ("lane", "settled"),
    [
        (LaneReport(), False),
        (LaneReport(loaded=True), True),
        (LaneReport(error="no weights"), True),
        (LaneReport(lazy=True), True),
    ],
)
def test_a_lane_is_settled_once_nothing_more_happens_without_a_job(
    lane: LaneReport, settled: bool
) -> None:
    assert lane.settled == settled

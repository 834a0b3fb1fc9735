"""What `lanefleet stages` makes of the workers' reports."""

from __future__ import annotations

import pytest

from api.cli.stages import _since, sentence
from common.worker_report import WorkerReport


def report(busy: float = 0.0, other: float = 0.0, fill: float = 1.0, **idle: float) -> WorkerReport:
    causes = dict.fromkeys(
        ("no_work", "reserving", "decoding", "company", "loading", "publishing"), 0.0
    )
    causes.update(idle)
    lane = {
        "model": "m",
        "stages": {"infer": {"count": 2, "seconds": 1.0}},
        "decode_beside_seconds": 0.0,
        "jobs": 100,
        "room": 100 / fill,
        "cost": 1.0,
        "padded_cost": 1.0,
    }
    return WorkerReport.of(
        {
            "worker": "w",
            "pid": 1,
            "device": "cpu",
            "lanes": {"m": lane},
            "device_time": {
                "seconds": busy + other + sum(causes.values()),
                "busy": busy,
                "idle": causes,
                "other": other,
            },
        }
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            report(busy=37, decoding=63),
            "the device waits for decoding 63% of the time: raise LANEFLEET_DECODE_THREADS",
        ),
        (report(no_work=1000, busy=1), "the device has no work 100% of the time"),
        (report(busy=95, other=5), "the device is busy 95% of the time."),
        (report(busy=95, other=5, fill=0.25), "with batches that are 25% full"),
        (report(no_work=100, busy=70, reserving=30), "while there is work the device is busy 70%"),
        (report(busy=10, other=90), "is between two batches 90%"),
        (report(), "has no work"),
    ],
)
def test_one_sentence_says_where_the_time_goes(given: WorkerReport, expected: str) -> None:
    assert expected in sentence(given)


def test_two_reports_are_subtracted_and_idle_stages_left_out() -> None:
    (left,) = _since([report(busy=10, decoding=5)], [report(busy=30, decoding=5)])
    assert left.device_time is not None
    assert left.device_time.busy == 20
    assert left.lanes["m"].stages == {}
    assert left.lanes["m"].model == "m"

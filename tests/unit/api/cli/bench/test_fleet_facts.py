"""Which model is loaded, and what workers did meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from api.cli.bench.fleet_facts import choose_model, ran_between
from common.errors import ConfigurationError
from common.worker_report import DeviceTimes, LaneReport, WorkerReport


class Models:
    """A client that lists these."""

    def __init__(self, *models: tuple[str, str, bool]) -> None:
        self._models = models

    def list_models(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "input": kind, "loaded_by": ["w"] if loaded else []}
            for name, kind, loaded in self._models
        ]


FLEET: Any = Models(("echo", "json", True), ("minilm", "text", True), ("ocr", "image", False))


def test_a_model_is_named_or_chosen_by_what_is_given() -> None:
    assert choose_model(FLEET, "ocr", None) == ("ocr", "image")
    assert choose_model(FLEET, None, None) == ("minilm", "text")
    only: Any = Models(("echo", "json", True))
    assert choose_model(only, None, None) == ("echo", "json")


@pytest.mark.parametrize(("name", "wanted"), [("gone", None), (None, "image")])
def test_a_model_that_is_not_served_is_a_sentence(name: str | None, wanted: str | None) -> None:
    with pytest.raises(ConfigurationError, match="serves"):
        choose_model(FLEET, name, wanted)


def report(pid: int, batches: dict[str, int], seconds: float, busy: float) -> WorkerReport:
    lanes = {"m": LaneReport(batches=batches)}
    return WorkerReport(
        f"w{pid}", pid, lanes=lanes, device_time=DeviceTimes(seconds=seconds, busy=busy)
    )


def test_batches_are_those_between_two_reports_of_all_workers() -> None:
    before = [report(1, {"8": 10, "16": 1}, 100, 10)]
    after = [report(1, {"8": 14, "16": 1}, 110, 19), report(2, {"4": 5}, 10, 1)]
    found = ran_between(before, after, "m")
    assert found is not None
    assert found.batches == {8: 4, 4: 5}
    assert found.device_busy == pytest.approx((0.9 + 0.1) / 2)
    assert ran_between(None, after, "m") is None

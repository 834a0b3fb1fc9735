"""`lanefleet top`: what it shows, and that an API that goes away does not end it."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from rich.console import Console

from api.cli import top
from api.cli.lane_table import duration, lane_table

QUIET = {
    "demand": 0, "waiting": 0, "leased": 0, "delayed": 0, "dead": 0, "workers": 1,
    "oldest_age_seconds": 0.0, "drain_jobs_per_second": None, "drain_seconds": 0.0,
    "breaker": {"state": "closed"}, "abandoned": False,
}  # fmt: skip
BUSY = {**QUIET, "demand": 7, "waiting": 5, "leased": 2, "drain_jobs_per_second": 0.12345}


def printed(table: Any) -> str:
    console = Console(width=140, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_table_has_a_row_a_lane_with_a_remark_where_one_is_due() -> None:
    lanes = {
        "quiet": QUIET,
        "alone": {**BUSY, "workers": 0, "oldest_age_seconds": 200.0, "drain_seconds": None},
        "gone": {**BUSY, "abandoned": True, "workers": 0},
    }
    _, quiet, alone, gone = printed(lane_table(lanes)).splitlines()
    assert " ".join(quiet.split()) == "quiet 0 0 0 0 0 1 0s - 0s closed"
    assert " ".join(alone.split()) == "alone 7 5 2 0 0 0 3m 0.123 - closed waits for a worker"
    assert gone.rstrip().endswith("nobody serves it")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "120m"), (7200, "2h"), (2e5, "2d")],
)
def test_times_have_one_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


class Api:
    """Answers, is away, and answers again."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def list_lanes(self, *names: str) -> dict[str, Any]:
        self.asked.append(names)
        if len(self.asked) == 2:
            raise httpx.ConnectError("refused")
        return {"quiet": QUIET, "busy": BUSY}


def test_an_api_that_is_away_is_said_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    api = Api()
    looks = top._looks(api, ("busy",), 1.0, False)  # type: ignore[arg-type]
    pages = [next(looks) for _ in range(3)]
    assert api.asked == [("busy",)] * 3
    for lanes in pages:
        top._write(lanes)
    first, away, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["lanes"]["busy"]["demand"] == last["lanes"]["busy"]["demand"] == 7
    assert away["error"] == "refused"
    shown, said, _ = (printed(top._page("http://api", lanes, 1.0)) for lanes in pages)
    assert "demand 7" in shown
    assert shown.index("busy") < shown.index("quiet"), "the most demand first"
    assert "no answer: refused" in said


def test_one_look_is_the_last() -> None:
    assert len(list(top._looks(Api(), (), 1.0, True))) == 1  # type: ignore[arg-type]

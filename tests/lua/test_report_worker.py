"""report_worker.lua: workers are known while they report."""

from __future__ import annotations

import pytest
from redis import Redis

from tests.lua.cases import NOW_MS, Case, Z, check, says

REPORT = "lf:worker:one"
WORDS = [REPORT, "lf:workers", "lf:fingerprints"]

CASES = [
    Case(
        "who was silent for a minute is forgotten",
        ["one", "{}", 15],
        1,
        given={"lf:workers": Z({"two": 5})},
        then={REPORT: "{}", "lf:workers": Z({"one": NOW_MS})},
        keys=WORDS,
    ),
    Case(
        "it tells which weights serve its lanes",
        ["one", "{}", 15, "echo", "echo f1"],
        0,
        given={"lf:fingerprints": {"other": "other f2"}},
        then={
            REPORT: "{}",
            "lf:workers": Z({"one": NOW_MS}),
            "lf:fingerprints": {"echo": "echo f1", "other": "other f2"},
        },
        keys=WORDS,
    ),
    Case(
        "it leaves",
        ["one"],
        1,
        given={REPORT: "{}", "lf:workers": Z({"one": 5})},
        then={REPORT: None, "lf:workers": None},
        keys=WORDS,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=says)
def test_report_worker(redis_client: Redis, case: Case) -> None:
    check(redis_client, "report_worker", case)

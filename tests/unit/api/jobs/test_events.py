"""What a job's record tells as events, and what of it is news to whom."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from api.jobs.events import history, news
from common.jobs.record import JobRecord, JobState

QUEUED = JobRecord("j", JobState.QUEUED, "echo", created_ms=1000)
RUNNING = replace(QUEUED, state=JobState.RUNNING, attempts=1, started_ms=2000, worker="w")
AGAIN = replace(QUEUED, attempts=1)
SECOND = replace(RUNNING, attempts=2, started_ms=3000)
DONE = replace(SECOND, state=JobState.SUCCEEDED, finished_ms=4000, result={"a": [1, None]})
CANCELED = replace(QUEUED, state=JobState.CANCELED, finished_ms=4000, reason="canceled")


@pytest.mark.parametrize(
    ("record", "ids"),
    [
        (QUEUED, ["1000-0"]),
        (RUNNING, ["1000-0", "1000-1"]),
        (AGAIN, ["1000-2"]),
        (SECOND, ["1000-0", "1000-3"]),
        (DONE, ["1000-0", "1000-3", "1000-end"]),
        (CANCELED, ["1000-0", "1000-end"]),
        (replace(DONE, created_ms=None), ["0-0", "0-3", "0-end"]),
    ],
)
def test_the_ids_follow_from_the_record(record: JobRecord, ids: list[str]) -> None:
    assert [event.id for event in history(record)] == ids


@pytest.mark.parametrize(
    ("record", "last", "ids"),
    [
        (QUEUED, None, ["1000-0"]),
        (QUEUED, "1000-0", []),
        (RUNNING, "1000-0", ["1000-1"]),
        (AGAIN, "1000-1", ["1000-2"]),
        (DONE, "1000-0", ["1000-3", "1000-end"]),
        (DONE, "1000-2", ["1000-3", "1000-end"]),
        (DONE, "1000-3", ["1000-end"]),
        (DONE, "1000-end", []),
        (DONE, "nonsense", ["1000-0", "1000-3", "1000-end"]),
        (DONE, "999-end", ["1000-0", "1000-3", "1000-end"]),  # retried since
        (QUEUED, "1000-1", ["1000-0"]),  # handed back uncounted
        (CANCELED, "1000-1", ["1000-end"]),
        (QUEUED, "999-end", ["1000-0"]),
    ],
)
def test_only_what_was_not_heard_is_news(
    record: JobRecord, last: str | None, ids: list[str]
) -> None:
    assert [event.id for event in news(record, last)] == ids


def test_an_event_tells_the_job_as_it_was_then() -> None:
    queued, running, done = (event.encode().decode() for event in history(DONE))
    assert queued.startswith("event: queued\nid: 1000-0\ndata: {")
    assert '"result":{' not in queued + running
    assert '"started_at"' not in queued
    assert done.endswith("\n\n")
    assert done.count("\n") == 4
    data = json.loads(done.split("data: ")[1])
    assert (data["state"], data["result"]) == ("succeeded", {"a": [1, None]})

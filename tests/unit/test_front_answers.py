"""What the front says of a job."""

from __future__ import annotations

import pytest

from api.schemas import JobView, queued_json, view_json
from common.job import JobRecord, JobState


@pytest.mark.parametrize("created_ms", [1_763_704_276_123, 1_763_704_276_000, 1_763_704_276_120])
@pytest.mark.parametrize("lane", ["echo", "text-detect", 'q"é'])
def test_the_short_answer_is_the_view_of_a_queued_job(created_ms: int, lane: str) -> None:
    record = JobRecord("0-1", JobState.QUEUED, lane, created_ms=created_ms)
    assert queued_json(record) == view_json(record)
    assert JobView.model_validate_json(queued_json(record)) == JobView.of(record)


def test_a_result_keeps_its_own_nulls() -> None:
    record = JobRecord("0-1", JobState.SUCCEEDED, "echo", result={"a": None, "b": [1.5, None]})
    assert b'"result":{"a":null,"b":[1.5,null]}' in view_json(record)
    assert b"worker" not in view_json(record)

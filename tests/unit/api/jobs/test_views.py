"""What the front says of a job."""

from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest

from api.jobs.links import job_path
from api.jobs.views import JobView, QueuePosition, queued_json, view_json
from common.jobs.record import JobRecord, JobState
from common.jobs.result_document import Stamp, dump_result, with_lineage


@pytest.mark.parametrize("created_ms", [1_763_704_276_123, 1_763_704_276_000, 1_763_704_276_120])
@pytest.mark.parametrize("lane", ["echo", "text-detect", 'q"é'])
def test_the_short_answer_is_the_view_of_a_queued_job(created_ms: int, lane: str) -> None:
    record = JobRecord("0-1", JobState.QUEUED, lane, created_ms=created_ms)
    queued = queued_json(record, job_path(record.id))
    assert queued == view_json(record)
    assert JobView.model_validate_json(queued) == JobView.of(record)


def test_a_result_keeps_its_own_nulls() -> None:
    record = JobRecord("0-1", JobState.SUCCEEDED, "echo", result={"a": None, "b": [1.5, None]})
    assert b'"result":{"a":null,"b":[1.5,null]}' in view_json(record)
    assert b"worker" not in view_json(record)


FULL = JobRecord(
    "0-1",
    JobState.SUCCEEDED,
    "minilm",
    created_ms=1_763_704_276_123,
    started_ms=1_763_704_276_500,
    finished_ms=1_763_704_277_000,
    attempts=2,
    worker="w@h",
    version="1",
    batch_size=32,
    infer_ms=1.25,
    result={"a": [0.1, -1e-07, 1e22, None], "b": "é\u2028", "c": {}},
)
DEAD = replace(
    FULL, state=JobState.FAILED, result=None, reason="attempts_exhausted", error='it "broke"'
)


@pytest.mark.parametrize(
    ("record", "position"),
    [
        (FULL, None),
        (DEAD, None),
        (replace(DEAD, error=None, infer_ms=None), None),
        (replace(FULL, cached=True, age_seconds=0, attempts=0), None),
        (replace(FULL, shared=True), None),
        (JobRecord("0-1", JobState.QUEUED, "echo"), QueuePosition(3, 1_763_704_276_120)),
        (
            JobRecord("0-1", JobState.RUNNING, "echo", started_ms=5, worker="w"),
            QueuePosition(0, None),
        ),
        (replace(FULL, result=2**70), None),
    ],
)
def test_a_view_is_written_as_pydantic_would(
    record: JobRecord, position: QueuePosition | None
) -> None:
    written = view_json(record, position)
    theirs = JobView.of(record, position).model_dump_json(exclude_none=True)
    assert json.loads(written) == json.loads(theirs)
    assert list(json.loads(written)) == list(json.loads(theirs))
    assert JobView.model_validate_json(written) == JobView.of(record, position)


def test_a_running_job_has_had_one_attempt_as_a_number() -> None:
    record = JobRecord.read("j", b"r echo 1700000000000 0 0 0 tag:1 1700000000001 w ", None)
    assert record is not None
    assert record.attempts == 1
    assert record.attempts is not True


def stored(result: bytes, lineage: bytes = b"") -> bytes:
    """A result as the worker stores it."""
    document = Stamp("lane", "1", "w", 1, 0.5, 2_000).success(result, "0-1", 1, 500, 1_000, "acme")
    return with_lineage(document, lineage) if lineage else document


@pytest.mark.parametrize("lineage", [b"", b'"children":[[["a",null],null]],"group_id":"g"'])
@pytest.mark.parametrize(
    "text", ["", '","traceback":null,"children":[],"lanefleet":{"state":"failed"}}', "\\\u2028"]
)
def test_a_large_result_is_shown_without_being_parsed(text: str, lineage: bytes) -> None:
    value = {"rows": [[1.0] * 1000] * 50, "text": text, "null": None}
    record = JobRecord.read("0-1", None, stored(dump_result(value), lineage))
    assert record is not None
    assert type(record.result) is orjson.Fragment, "it stays JSON"
    assert record.value == value
    parsed = replace(record, result=value)
    assert view_json(record) == view_json(parsed)
    assert JobView.of(record) == JobView.of(parsed)
    assert (record.tenant, record.started_ms, record.state.value) == ("acme", 1_000, "succeeded")


def test_a_large_result_of_another_celery_worker_is_parsed() -> None:
    value = ["x" * 70_000]
    meta = json.dumps({"status": "SUCCESS", "result": value, "traceback": None, "children": []})
    for raw in (meta, meta.replace(", ", ",").replace(": ", ":")):
        record = JobRecord.read("0-1", None, raw.encode())
        assert record is not None
        assert record.result == record.value == value

"""What is written from a stored result is what its record's view would be."""

from __future__ import annotations

import json

import orjson
import pytest

from api.jobs.stored_views import StoredViews, minimal_json
from api.jobs.views import view_json
from common.jobs.cache_entry import Entry
from common.jobs.record import JobRecord
from common.jobs.result_document import Stamp, cache_hit, with_lineage

STAMP = Stamp("text-detect", "1.2", 'cpu-1@"host"', 64, 1.25, 1_763_704_276_123)
RESULT = (
    '{"a":[1.0,null],"b":"é\\" ,\\"traceback\\":null,\\"children\\":[],\\"lanefleet\\":{"}'.encode()
)
ID = "0f6dd10c-0000-4000-8000-000000000000"


def success(tenant: str = "", call: str = "", created_ms: int = 1_763_704_275_000) -> bytes:
    return STAMP.success(RESULT, ID, 2, created_ms, 1_763_704_276_001, tenant, call)


@pytest.mark.parametrize(
    "meta",
    [
        success(),
        success("acme"),
        success("acme", "0123"),
        with_lineage(success("acme"), b'"children":[[["a",null],null]],"group_id":"g"'),
    ],
)
def test_a_view_is_the_view_of_its_record(meta: bytes) -> None:
    record = JobRecord.read(ID, None, meta)
    assert record is not None
    for _ in range(2):  # the second time from what is kept of its batch
        line = StoredViews(lambda _tenant: True).line(ID, meta)
        assert line == view_json(record) + b"\n"
    minimal = StoredViews(lambda _tenant: True, minimal=True).line(ID, meta)
    assert minimal is not None
    assert json.loads(minimal) == json.loads(minimal_json(record))
    assert json.loads(minimal) == {"id": ID, "state": "succeeded", "result": json.loads(RESULT)}


@pytest.mark.parametrize("minimal", [True, False])
def test_a_job_of_another_tenant_has_no_view(minimal: bool) -> None:
    views = StoredViews(lambda tenant: tenant == "acme", minimal=minimal)
    assert views.line(ID, success("acme"))
    for other in ("", "acme2", "acm", "beta"):
        assert views.line(ID, success(other)) is None


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"{}",
        b'{"status":"SUCCESS","result":1,"traceback":null,"children":[]}',
        json.dumps({"status": "SUCCESS", "result": 1, "traceback": None, "children": []}).encode(),
        STAMP.failure(ID, 1, 5, 6, "", exc_type="X", step="infer", reason="r", error="e"),
        cache_hit(Entry(b"1", 5, "1", "w"), ID, "echo", 7),
        success(created_ms=0),
        success()[:-2] + b',"shared":true}}',
    ],
)
def test_what_has_another_form_takes_its_record(meta: bytes) -> None:
    assert StoredViews(lambda _tenant: True).line(ID, meta) is None


def test_an_id_that_needs_escapes_takes_its_record() -> None:
    assert StoredViews(lambda _tenant: True).line('a"b', success()) is None


def test_what_is_kept_is_bounded() -> None:
    views = StoredViews(lambda _tenant: True)
    for n in range(1000):
        stamp = Stamp("echo", "1", "w", 1, 1.0, n + 1)
        assert views.line(ID, stamp.success(b"1", ID, 1, n + 1, n + 2, ""))
    assert len(views._batches) <= 256
    assert len(views._moments) <= 256


def test_the_least_of_a_failure_has_its_error() -> None:
    meta = STAMP.failure(ID, 1, 5, 6, "", exc_type="X", step="infer", reason="r", error="e")
    record = JobRecord.read(ID, None, meta)
    assert record is not None
    said = {"id": ID, "state": "failed", "error": {"reason": "r", "message": "e"}}
    assert orjson.loads(minimal_json(record)) == said

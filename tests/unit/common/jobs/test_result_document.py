"""The Python writer and the reader, held against the golden documents; Lua's: tests/lua."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import orjson
import pytest

from common.jobs.cache_entry import Entry
from common.jobs.record import JobRecord
from common.jobs.result_document import Stamp, cache_hit, dump_result
from tests.support.result_documents import GoldenDocument, golden_documents

DOCUMENTS = golden_documents()
WRITTEN_HERE = [one for one in DOCUMENTS if not one.in_lua]
BATCH = (
    "lane",
    "version",
    "worker",
    "batch_size",
    "infer_ms",
    "finished_ms",
    "date_done",
)


def write(golden: GoldenDocument) -> bytes:
    """What the writer of this entry makes of what it knows."""
    known = dict(golden.known)
    if golden.writer == "cache_hit":
        entry = {name: known.pop(name) for name in ("result", "stored_ms", "version", "weights")}
        return cache_hit(Entry(**{**entry, "result": entry["result"].encode()}), **known)
    computed_by = known.pop("computed_by", "")
    batch = {name: known.pop(name) for name in BATCH}
    stamp = Stamp(**batch, computed_by=computed_by)
    if golden.writer == "failure":
        return stamp.failure(**known)
    return stamp.success(**{**known, "result": known["result"].encode()})


@pytest.mark.parametrize("golden", WRITTEN_HERE, ids=lambda one: one.name)
def test_what_is_written_is_the_golden_document(golden: GoldenDocument) -> None:
    golden.holds(write(golden))


@pytest.mark.parametrize("golden", DOCUMENTS, ids=lambda one: one.name)
def test_both_writers_documents_are_read_back(golden: GoldenDocument) -> None:
    written = golden.text.encode() or orjson.dumps(golden.document)
    assert JobRecord.read(golden.job_id, None, written) == golden.record


def test_every_writer_has_an_entry() -> None:
    assert {one.writer for one in WRITTEN_HERE} == {"success", "failure", "cache_hit"}


@dataclasses.dataclass
class Holder:
    """What orjson writes as an object."""

    value: object


class Choice(enum.Enum):
    """What orjson writes as its value."""

    NAN = float("nan")
    NONE = None


NAN = float("nan")


@pytest.mark.parametrize(
    "value",
    [
        NAN,
        [1, {"a": (None, -float("inf"))}],
        np.full(3, NAN, np.float16),
        {"e": np.array([[1, np.inf]], np.float32)},
        [np.float64(NAN)],
        np.float32(NAN),
        np.float16(np.inf),
        Holder(NAN),
        Holder([np.array([NAN])]),
        Choice.NAN,
    ],
)
def test_a_nan_is_refused_whatever_it_is_in(value: object) -> None:
    with pytest.raises(ValueError, match="NaN"):
        dump_result(value)


@pytest.mark.parametrize(
    ("value", "dumped"),
    [
        (None, b"null"),
        ({"a": [None, "null"]}, b'{"a":[null,"null"]}'),
        ([None, np.array([1.5]), np.float32(2)], b"[null,[1.5],2.0]"),
        (Holder(None), b'{"value":null}'),
        (Choice.NONE, b"null"),
        ([None, np.array(["2020-01-01"], "M8[s]")], b'[null,["2020-01-01T00:00:00"]]'),
    ],
)
def test_a_null_that_is_meant_is_kept(value: object, dumped: bytes) -> None:
    assert dump_result(value) == dumped

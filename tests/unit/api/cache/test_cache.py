"""Digests, entries, fingerprints and wishes: the parts of the cache that do no I/O."""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from api.cache.directives import ANYTHING, NOTHING, CacheDirectives, directives_of
from common.catalog import ModelSpec
from common.jobs.cache_entry import Entry, age_seconds, digest_of, pack, unpack
from common.jobs.record import JobRecord, JobState
from common.jobs.result_document import cache_hit
from worker.residency.weights_digests import WeightsDigests

SPEC = ModelSpec(name="m", handler="echo")
ENTRY = Entry(b'{"a":1}', 1_700_000_000_000, "2", "w" * 32)
KEY = "lf:cache:m:" + "0" * 64


def digest(spec: ModelSpec = SPEC, **changed: Any) -> str:
    parts: dict[str, Any] = {
        "scope": "",
        "weights": "w",
        "epoch": "0",
        "params": {},
        "value": "text",
        "blob": None,
    }
    return digest_of(spec, **{**parts, **changed})


def test_whatever_a_result_depends_on_changes_the_digest() -> None:
    found = [
        digest(),
        digest(scope="tenant"),
        digest(weights="v"),
        digest(epoch="1"),
        digest(params={"k": 1}),
        digest(params={"k": "1"}),
        digest(value="other"),
        digest(value=["text"]),
        digest(value=None),
        digest(value="", blob=b"text"),
        digest(ModelSpec(name="m", handler="echo", version="2")),
        digest(ModelSpec(name="m", handler="echo", precision="bf16")),
        digest(ModelSpec(name="m", handler="echo", backend="onnx")),
        digest(ModelSpec(name="m", handler="echo", backend="openvino")),
        digest(ModelSpec(name="m", handler="echo", providers=("cpu",))),
        digest(ModelSpec(name="n", handler="echo")),
        digest(scope="w", weights=""),
    ]
    assert all(one != other for one, other in combinations(found, 2))
    assert all(len(one) == 64 for one in found)


def test_the_order_of_keys_matters_in_the_input_and_not_in_params() -> None:
    assert digest(params={"a": 1, "b": {"c": 2, "d": 3}}) == digest(
        params={"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert digest(value={"a": 1, "b": 2}) != digest(value={"b": 2, "a": 1})
    assert digest(value=[{"a": 1, "b": 2}]) != digest(value=[{"b": 2, "a": 1}])


def test_an_entry_is_read_as_it_was_written_and_under_its_key_only() -> None:
    raw = pack(KEY, ENTRY)
    assert unpack(KEY, raw) == ENTRY
    assert unpack(KEY[:-1] + "1", raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"\n",
        b"garbage",
        b"\x80\x04\xff" * 50,
        pack(KEY, ENTRY)[:-1],
        pack(KEY, ENTRY) + b" ",
        pack(KEY, ENTRY).replace(b'"a":1', b'"a":2'),
        pack(KEY, ENTRY).replace(b"lf1", b"lf9"),
        pack(KEY, ENTRY).replace(b" 2 ", b" 3 "),
        b"lf1 x y z w\n{}",
    ],
)
def test_what_is_no_entry_is_a_miss(raw: bytes | None) -> None:
    assert unpack(KEY, raw) is None


def test_a_hit_reads_as_a_settled_job() -> None:
    now_ms = ENTRY.stored_ms + 90_500
    record = JobRecord.read("job", None, cache_hit(ENTRY, "job", "lane", now_ms))
    assert record is not None
    assert (record.state, record.result, record.lane) == (JobState.SUCCEEDED, {"a": 1}, "lane")
    assert (record.cached, record.age_seconds, record.version) == (True, 90, "2")
    assert age_seconds(ENTRY, ENTRY.stored_ms - 5_000) == 0, "a clock that is behind"


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        (None, ANYTHING),
        ("", ANYTHING),
        ("public, max-stale=5", ANYTHING),
        ("no-store", NOTHING),
        ("No-Store, max-age=5", NOTHING),
        ("no-cache", CacheDirectives(look=False)),
        ("max-age=0", CacheDirectives(look=False)),
        ("max-age=60", CacheDirectives(max_age_seconds=60)),
        ('x, max-age="60"', CacheDirectives(max_age_seconds=60)),
        ("max-age=soon", ANYTHING),
        ("x-no-store-x", ANYTHING),
    ],
)
def test_cache_control_says_what_is_wished(header: str | None, wish: CacheDirectives) -> None:
    assert directives_of(header) == wish


def test_only_built_in_models_that_answer_alike_are_kept_unasked() -> None:
    assert ModelSpec(name="m", handler="minilm").keeps_results_seconds == 3600
    assert ModelSpec(name="m", handler="minilm", cache_seconds=0).keeps_results_seconds == 0
    assert (
        ModelSpec(name="m", handler="minilm", run_identical_once=False).keeps_results_seconds == 0
    )
    assert ModelSpec(name="m", handler="echo").keeps_results_seconds == 0
    assert ModelSpec(name="m", handler="my:Own").keeps_results_seconds == 0
    assert ModelSpec(name="m", handler="my:Own", cache_seconds=5).keeps_results_seconds == 5


def test_a_fingerprint_follows_the_weights_content_wherever_they_lie(tmp_path: Path) -> None:
    prints = WeightsDigests(tmp_path / "memory.json")

    def make(folder: str, content: str, **fields: Any) -> str | None:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        (path / "weights.bin").write_text(content)
        spec = ModelSpec(name="m", handler="my:Own", weights=str(path), **fields)
        return prints.make(spec.model_copy(update={"weights": str(path)}), prints.files(spec))

    first = make("a", "one")
    assert first
    assert make("a", "two") != first
    assert make("a", "one") == first
    assert make("b", "one") == first
    assert make("a", "one", version="2") != first
    assert make("a", "one", precision="bf16") != first
    assert make("a", "one", backend="onnx") != make("a", "one", backend="openvino") != first
    assert make("a", "one", providers=("cuda",)) != first
    assert make("a", "one", options={"k": 1}) != first


def test_weights_that_change_while_they_are_loaded_have_no_fingerprint(tmp_path: Path) -> None:
    prints = WeightsDigests(tmp_path / "memory.json")
    weights = tmp_path / "weights.bin"
    weights.write_text("one")
    spec = ModelSpec(name="m", handler="my:Own", weights=str(weights))
    before = prints.files(spec)
    weights.write_text("another")
    assert prints.make(spec, before) is None


def test_a_file_is_hashed_once_also_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"x" * 1000)
    spec = ModelSpec(name="m", handler="my:Own", weights=str(weights))
    first = WeightsDigests(tmp_path / "memory.json")
    made = first.make(spec, first.files(spec))
    monkeypatch.setattr(
        "worker.residency.weights_digests._hash", lambda path: pytest.fail(f"hashed {path}")
    )
    second = WeightsDigests(tmp_path / "memory.json")
    assert second.make(spec, second.files(spec)) == made
    (tmp_path / "memory.json").write_text("{torn")
    monkeypatch.undo()
    third = WeightsDigests(tmp_path / "memory.json")
    began = time.monotonic()
    assert third.make(spec, third.files(spec)) == made
    assert time.monotonic() - began < 30

"""JSON that means two things is refused; what means one is read as orjson reads it."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.inputs import strict_json
from common.inputs.strict_json import MAX_DEPTH, MAX_VALUES, loads_strict

DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(DOCUMENTS)
def test_whatever_has_no_key_twice_is_read(document: Any) -> None:
    assert loads_strict(json.dumps(document).encode()) == document
    assert loads_strict(orjson.dumps(document)) == document


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"model":"echo","model":"minilm","input":1}', "'model' is given twice"),
        (b'{"a":{"b":[0,{"c":1,"c":1}]}}', "'c' is given twice"),
        (b'{"a":"x:y","\\u0061":1}', "'a' is given twice"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "levels deep"),
        (b"[" * 100_000, "."),
        (b"[" + b"{}," * MAX_VALUES + b"{}]", "commas"),
        (b"NaN", "."),
        (b'{"a":-Infinity}', "."),
        (b"1e999", "."),
        (b'"\\ud800"', "."),
        (b'"\xff"', "."),
        (b"", "."),
    ],
)
def test_what_is_not_strict_is_refused_with_the_reason(body: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        loads_strict(body)


def test_the_greatest_depth_is_read_and_written() -> None:
    document = loads_strict(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert orjson.dumps({"input": document})


@pytest.mark.parametrize(
    "text",
    ["," * 600_000, '\\"[{,' * 300_000, "\\\\," * 600_000, 'a,"b' * 300_000, ",\n" * 600_000],
    ids=["commas", "escapes", "backslashes", "quotes", "lines"],
)
def test_what_stands_in_strings_is_not_counted(text: str) -> None:
    for document in ({"input": text}, {text[:100]: [text, "", text]}):
        assert loads_strict(json.dumps(document).encode()) == document


@pytest.mark.parametrize(
    "value", [b'",",', b'"",', b'"\\",",', b'"\\\\",', b'{"a":"b"},', b'"' + b"x" * 50 + b'",']
)
def test_what_stands_outside_is_counted_whatever_the_strings(value: bytes) -> None:
    body = b"[" + value * (MAX_VALUES + 1) + b"0]"
    with pytest.raises(ValueError, match="commas"):
        loads_strict(body)
    assert loads_strict(b"[" + value * 1000 + b"0]") == json.loads(b"[" + value * 1000 + b"0]")


@given(st.lists(st.sampled_from(['"', "\\", ",", "[", "x", "{"]), max_size=40).map("".join))
def test_structure_is_counted_as_a_parser_counts_it(text: str) -> None:
    body = orjson.dumps([text, {text: [text]}])
    with pytest.MonkeyPatch.context() as patch:
        for limit, refused in ((4, False), (3, True)):
            patch.setattr(strict_json, "MAX_VALUES", limit)
            patch.setattr(strict_json, "_MAX_QUOTES", 1_000)
            assert strict_json._has_too_many_values(body) == refused


def test_colons_in_strings_are_no_keys() -> None:
    assert loads_strict(b'{"a":"::::","b":{"c":":"}}') == {"a": "::::", "b": {"c": ":"}}

"""How a stock client may pack its call, and what of it is refused by name."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import zlib
from typing import Any

import orjson
import pytest
from kombu import compression

from common.errors import InputTooLarge
from common.jobs.job import Job
from common.jobs.message import build_message
from worker.jobs.execution import Execution
from worker.jobs.leases import Lease
from worker.jobs.message import parse

LIMIT = 10_000
CALL: tuple[list[Any], dict[str, Any], dict[str, Any]] = ([], {"model": "a", "input": "é"}, {})


def read(message: dict[str, Any]) -> Execution:
    return parse(Lease(b"tag:1", 1, b"0", orjson.dumps(message)), "a", 0.0, LIMIT)


def packed(name: str, body: bytes) -> Execution:
    """The message with this body, which the header says is compressed so."""
    message = orjson.loads(build_message(Job("a", 1)))
    message["headers"]["compression"] = name
    message["properties"]["body_encoding"] = "base64"
    message["body"] = base64.b64encode(body).decode()
    return read(message)


def call(*args: Any, **kwargs: Any) -> Execution:
    message = orjson.loads(build_message(Job("a", 1)))
    message["body"] = json.dumps([args, kwargs, {}])
    return read(message)


@pytest.mark.parametrize("alias", ["gzip", "zlib", "bzip2", "lzma"])
def test_what_celery_compresses_is_read(alias: str) -> None:
    body, name = compression.compress(json.dumps(CALL), alias)
    for header in (name, alias):
        execution = packed(header, body)
        assert execution.disposition is None, execution.error
        assert execution.value == "é"


@pytest.mark.parametrize("name", ["application/x-brotli", "application/zstd", "rot13", ""])
def test_an_unknown_compression_is_refused_by_its_name(name: str) -> None:
    execution = packed(name, b"anything")
    assert execution.disposition == "unreadable"
    assert repr(name) in str(execution.error)
    assert "send gzip, zlib, bzip2, lzma or none" in str(execution.error)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("application/x-gzip", zlib.compress),
        ("application/x-bz2", bz2.compress),
        ("application/x-lzma", lzma.compress),
    ],
)
def test_a_body_that_unpacks_to_too_much_is_refused(name: str, pack: Any) -> None:
    bomb = packed(name, pack(b"[" * 50_000_000))
    assert (bomb.disposition, type(bomb.error)) == ("failed", InputTooLarge)
    assert f"larger than {LIMIT} bytes" in str(bomb.error)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"not compressed", "damaged"),
        (zlib.compress(json.dumps(CALL).encode())[:-5], "cut off"),
        (gzip.compress(b"[]", mtime=0), "damaged"),
    ],
)
def test_a_damaged_body_is_unreadable(body: bytes, says: str) -> None:
    execution = packed("application/x-gzip", body)
    assert execution.disposition == "unreadable"
    assert says in str(execution.error)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"temperature": 1}, "`temperature`"),
        ({"timeout": 3, "max_tokens": 5}, "`max_tokens`, `timeout`"),
        ({"input_url": "https://example.org/a"}, "both `input` and `input_url`"),
    ],
)
def test_what_infer_does_not_take_is_refused_and_named(kwargs: dict[str, Any], named: str) -> None:
    execution = call(model="a", input=1, **kwargs)
    assert execution.disposition == "failed"
    assert named in str(execution.error)
    if "input_url" not in kwargs:
        assert "`params`" in str(execution.error)


def test_more_positional_arguments_than_infer_has_are_refused() -> None:
    assert call("a", 1, {"top_k": 1}).disposition is None
    refused = call("a", 1, {}, "more")
    assert refused.disposition == "failed"
    assert "4 positional" in str(refused.error)

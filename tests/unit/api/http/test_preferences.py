"""The `Prefer` header, as RFC 7240 has it, and what else a submit asks by header."""

from __future__ import annotations

import asyncio
import time

import pytest
from fastapi import Request
from starlette.types import Message

from api.cache.directives import directives_of
from api.http.bodies import Asked, read
from api.http.idempotency_key import key_of
from api.http.preferences import Preferences
from api.http.problems import from_fleet_error
from api.http.request_errors import InvalidIdempotencyKey


@pytest.mark.parametrize(
    ("header", "wait", "respond_async"),
    [
        (None, None, False),
        ("", None, False),
        ("wait=10", 10, False),
        ("Wait=10", 10, False),
        ("wait = 10", 10, False),
        ('wait="10"', 10, False),
        ("wait=0.25", 0.25, False),
        ("wait=0", 0, False),
        ("wait=999", 60, False),
        ("respond-async", None, True),
        ("Respond-Async", None, True),
        ('respond-async=""', None, True),
        ("respond-async, wait=5", 5, True),
        ("wait=5,respond-async", 5, True),
        ("wait=5; foo=bar, respond-async; x", 5, True),
        ('foo="a, wait=9", wait=3', 3, False),
        ('foo="\\", wait=9", wait=3', 3, False),
        ("wait=3, wait=7", 3, False),
        ("return=minimal, handling=lenient", None, False),
        ("await=4", None, False),
        ("wait=-1", None, False),
        ("wait=soon", None, False),
        ("wait", None, False),
        ("wait=1e3", None, False),
        ("wait=nan", None, False),
        ("respond-async=no", None, False),
        (",,;=,wait=2", 2, False),
        ('"' * 2_000 + "wait=2", None, False),
        ('wait=2, "unclosed', 2, False),
        ("wait=2, x=" + "y" * 2_000, None, False),
    ],
)
def test_preferences_are_read_as_the_rfc_says(
    header: str | None, wait: float | None, respond_async: bool
) -> None:
    found = Preferences.of(header, 60)
    assert (found.wait_seconds, found.respond_async) == (wait, respond_async)


@pytest.mark.parametrize(
    ("header", "minimal"),
    [
        ("return=minimal, handling=lenient", True),
        ('wait=5, Return="minimal"', True),
        ("return=representation", False),
        ("return", False),
        ("minimal", False),
        (None, False),
    ],
)
def test_the_least_may_be_asked_for(header: str | None, minimal: bool) -> None:
    assert Preferences.of(header, 60).minimal is minimal


@pytest.mark.parametrize(
    "header",
    ['"' + '\\"' * 16_000, '"' + '\\"' * 510, "a=" + " " * 32_000 + "x", "a=" + " " * 1_020 + "x"],
)
def test_a_long_header_holds_nobody_up(header: str) -> None:
    began = time.thread_time()
    assert Preferences.of(header, 60) == Preferences()
    assert time.thread_time() - began < 2


@pytest.mark.parametrize(
    "header",
    [
        "max-age " * 4_000,
        "max-age" + " " * 32_000,
        'max-age="' * 4_000,
        "no-cach," * 4_000,
        "max-age= " * 4_000,
    ],
)
def test_a_long_cache_control_holds_nobody_up(header: str) -> None:
    began = time.thread_time()
    assert directives_of(header).look
    assert time.thread_time() - began < 2


def test_the_answer_names_the_preferences_that_it_honoured() -> None:
    both = Preferences.of("wait=90, respond-async, return=minimal", 60)
    assert both.applied(settled=False) == "respond-async, wait=60"
    assert both.applied(settled=True) == "wait=60"
    assert Preferences.of("return=minimal", 60).applied(settled=False) == ""


def asked_of(headers: list[tuple[bytes, bytes]]) -> Asked:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    json = (b"content-type", b"application/json")
    scope = {"type": "http", "headers": [*headers, json], "query_string": b""}
    return asyncio.run(read(Request(scope, receive), 100)).asked


def test_headers_sent_twice_are_one_list() -> None:
    raw = [(b"prefer", b"respond-async"), (b"host", b"x"), (b"prefer", b"wait=2")]
    assert asked_of(raw) == Asked("respond-async, wait=2", None)
    assert asked_of([(b"host", b"x")]) == Asked()
    assert asked_of([(b"idempotency-key", b"")]).idempotency_key == ""


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a\tb", "schlüssel"])
def test_a_key_that_is_none_is_a_400(key: str) -> None:
    with pytest.raises(InvalidIdempotencyKey) as raised:
        key_of(key)
    assert from_fleet_error(raised.value).status == 400


def test_a_key_may_be_quoted_as_in_the_draft_or_bare() -> None:
    assert key_of('"8e03978e-40d5"') == key_of(" 8e03978e-40d5 ") == "8e03978e-40d5"
    assert len(key_of("x" * 255)) == 255

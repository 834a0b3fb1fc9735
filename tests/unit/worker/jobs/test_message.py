"""What a message must be to be run, whoever sent it."""

from __future__ import annotations

import json

import orjson
import pytest

from common.jobs.job import Job
from common.jobs.message import build_message
from worker.jobs.leases import Lease
from worker.jobs.message import parse


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e308"])
def test_a_deadline_that_is_no_time_makes_the_message_unreadable(text: str) -> None:
    message = orjson.loads(build_message(Job("a", 1)))
    for given, disposition in ((text, "unreadable"), ("99999", None)):
        message["headers"]["deadline_ms"] = given
        assert (
            parse(Lease(b"tag:1", 1, b"0", orjson.dumps(message)), "a", 0.0).disposition
            == disposition
        )


@pytest.mark.parametrize("name", ["eta", "expires"])
def test_a_time_whose_milliseconds_are_no_number_makes_the_message_unreadable(name: str) -> None:
    message = orjson.loads(build_message(Job("a", 1)))
    for given, disposition in ((1e308, "unreadable"), (10**400, "unreadable"), (4e9, None)):
        message["headers"][name] = given
        raw = json.dumps(message).encode()
        assert parse(Lease(b"tag:1", 1, b"0", raw), "a", 0.0).disposition == disposition


def test_an_id_that_is_no_text_makes_the_message_unreadable() -> None:
    message = build_message(Job("a", 1, id="ID")).replace(b'"ID"', rb'"\ud800"')
    assert parse(Lease(b"tag:1", 1, b"0", message), "a", 0.0).disposition == "unreadable"


@pytest.mark.parametrize("where", ["task", "model"])
@pytest.mark.parametrize("depth", [100, 900, 970, 1000, 1020])
def test_a_name_that_nests_deeper_than_python_prints_is_read_all_the_same(
    where: str, depth: int
) -> None:
    """One that raised here would take all of its reservation along."""
    nested = "[" * depth + "]" * depth
    message = orjson.loads(build_message(Job("a", 1)))
    text = orjson.dumps(message).decode()
    if where == "task":
        text = text.replace('"task":"infer"', f'"task":{nested}')
    else:
        message["body"] = f'[[],{{"model":{nested},"input":1}},{{}}]'
        text = orjson.dumps(message).decode()
    execution = parse(Lease(b"tag:1", 1, b"0", text.encode()), "a", 0.0)
    assert execution.disposition in ("failed", "unreadable")
    assert execution.job_id == message["headers"]["id"]

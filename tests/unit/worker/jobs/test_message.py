"""What a message must be to be run, whoever sent it."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from common.jobs.job import Job
from common.jobs.message import build_message
from common.jobs.result_document import with_lineage
from worker.jobs.execution import Execution
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


def called(args: list[Any], kwargs: dict[str, Any], embed: Any = None, **headers: Any) -> Execution:
    """The call of a stock client, as the lane `a` reads it."""
    message = {
        "headers": {"id": "ID", "task": "infer", **headers},
        "content-type": "application/json",
        "properties": {},
        "body": json.dumps([args, kwargs, embed or {}]),
    }
    return parse(Lease(b"tag:1", 1, b"0", orjson.dumps(message)), "a", 0.0)


@pytest.mark.parametrize(
    ("args", "kwargs", "value"),
    [
        ([], {"input": 1}, 1),
        ([1], {}, 1),
        ([1], {"model": "a"}, 1),
        (["a", 1], {}, 1),
        (["a", 1, {"p": 2}], {}, 1),
        (["a"], {}, "a"),
        ([{"x": [1, 2]}], {"pick": "/x/1"}, 2),
        ([], {"input": {"x": 3}, "pick": "/x"}, 3),
        ([None], {}, None),
    ],
)
def test_the_input_may_come_by_position(args: list[Any], kwargs: Any, value: Any) -> None:
    execution = called(args, kwargs)
    assert (execution.disposition, execution.value) == (None, value)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        (["b", 1], {}, "2 positional"),
        ([1, 2], {}, "2 positional"),
        (["a", 1, {}, 4], {}, "4 positional"),
        ([1], {"input": 2}, "immutable"),
        (["a", 1, {}], {"params": {}}, "params"),
        ([1], {"input_url": "http://x/"}, "input_url"),
        ([1], {"model": "b"}, "names model 'b'"),
        ([{"x": 1}], {"pick": "/y"}, "nothing lies at '/y'"),
        ([{"x": 1}], {"pick": "y"}, "no JSON Pointer"),
        ([{"x": 1}], {"pick": 7}, "must be text"),
    ],
)
def test_a_call_that_says_two_things_is_refused(args: list[Any], kwargs: Any, says: str) -> None:
    execution = called(args, kwargs)
    assert execution.disposition == "failed"
    assert says in str(execution.error)


NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@pytest.mark.parametrize("embed", [{}, NOTHING, {**NOTHING, "callbacks": []}, [], None, "x"])
def test_a_message_that_leads_to_nothing_carries_nothing(embed: Any) -> None:
    execution = called([1], {}, embed, root_id="ID", parent_id=None, group=None)
    assert (execution.next_steps, execution.lineage) == (None, b"")


def test_what_a_message_leads_to_is_read_also_where_it_is_refused() -> None:
    embed = {**NOTHING, "errbacks": [{"task": "t"}]}
    for kwargs in ({}, {"input": 2}):
        steps = called([1], kwargs, embed, root_id="R", parent_id="P", group="G").next_steps
        assert steps == {
            "errbacks": [{"task": "t"}],
            "root_id": "R",
            "parent_id": "P",
            "group": "G",
        }


def test_whence_a_job_came_goes_into_its_result() -> None:
    lineage = called([1], {}, None, parent_id="P", group="G").lineage
    assert json.loads(b"{" + lineage + b"}") == {
        "children": [],
        "parent_id": "P",
        "group_id": "G",
    }
    tricky = b'{"result":{"children":[]},"traceback":null,"children":[],"task_id":"x"}'
    assert json.loads(with_lineage(tricky, b'"children":[1]')) == {
        "result": {"children": []},
        "traceback": None,
        "children": [1],
        "task_id": "x",
    }

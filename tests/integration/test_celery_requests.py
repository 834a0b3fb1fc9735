"""What a stock Celery client asks of a running fleet: ids of its choice, commands, options.

One fleet for all of them, as none changes it. The client imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from common.redis.embedded_server import RedisServer
from common.redis.keys import meta_key
from tests.support.celery_client import client, send
from tests.support.lanes import LANE, RecordedLane
from tests.support.stack import ApiProcess, Stack, wait_until


@dataclass(frozen=True)
class Fleet:
    """One worker and one API."""

    stack: Stack
    lane: RecordedLane
    api: ApiProcess


@pytest.fixture(scope="module")
def fleet(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    stack = Stack(embedded_redis.url, tmp_path_factory.mktemp("celery"))
    stack.redis.flushall()
    lane = RecordedLane.on(stack)
    stack.worker(LANE)
    yield Fleet(stack, lane, stack.api(LANE))
    stack.close()


@pytest.mark.parametrize(
    ("command", "arguments", "instead"),
    [
        ("add_consumer", {"queue": LANE}, "LANEFLEET_MODELS"),
        ("cancel_consumer", {"queue": LANE}, "LANEFLEET_MODELS"),
        ("rate_limit", {"task_name": "infer", "rate_limit": "1/m"}, "lanefleet keys limit"),
        ("time_limit", {"task_name": "infer", "hard": 1}, "`time_limit`"),
        ("pool_grow", {"n": 1}, "more workers"),
        ("autoscale", {"max": 3, "min": 1}, "more workers"),
    ],
)
def test_commands_without_effect_are_refused(
    fleet: Fleet, command: str, arguments: dict[str, Any], instead: str
) -> None:
    app = client(fleet.stack)
    (answer,) = app.control.broadcast(command, arguments=arguments, reply=True, timeout=20, limit=1)
    assert instead in next(iter(answer.values()))["error"]
    assert send(app, "still served").get(timeout=20) == "still served"


def test_add_consumer_costs_no_job(fleet: Fleet) -> None:
    app = client(fleet.stack)
    app.control.add_consumer(LANE)
    results = [send(app, f"n{n}") for n in range(120)]
    assert [one.get(timeout=20) for one in results] == [f"n{n}" for n in range(120)]


def test_an_ignored_result_is_kept_for_a_moment_only(fleet: Fleet) -> None:
    app = client(fleet.stack)
    ignored = send(app, "ignored", {"ignore_result": True})
    failed = send(app, "failed", {"ignore_result": True}, refuse="no")
    kept = send(app, "kept")
    assert kept.get(timeout=20) == "kept"
    wait_until(lambda: "ignored" in fleet.lane.executions(), 20, "it to run")
    wait_until(lambda: fleet.stack.redis.exists(meta_key(failed.id)), 20, "the refusal")
    for one in (ignored, failed):
        assert 0 < fleet.stack.redis.ttl(meta_key(one.id)) <= 60
    assert fleet.stack.redis.ttl(meta_key(kept.id)) > 3600


@pytest.mark.parametrize("task_id", ['say "a"', "back\\slash", "new\nline", "nu\0l"])
def test_an_id_that_no_job_can_have_is_refused(fleet: Fleet, task_id: str) -> None:
    with pytest.raises(Exception, match="a task id with quotation marks"):
        send(client(fleet.stack), "never", {"task_id": task_id}).get(timeout=20)


@pytest.mark.parametrize("task_id", ["a space", "#fragment", "a/b?c%d", "é" * 40, "x" * 500])
def test_any_other_id_runs(fleet: Fleet, task_id: str) -> None:
    assert send(client(fleet.stack), "fine", {"task_id": task_id}).get(timeout=20) == "fine"


@pytest.mark.parametrize("task_id", ["a space", "#fragment", "what?", "50%", "é", "x" * 500])
def test_any_such_id_is_reached_over_http(fleet: Fleet, task_id: str) -> None:
    sent = client(fleet.stack)
    send(sent, "fine", {"task_id": task_id})
    assert sent.AsyncResult(task_id).get(timeout=20) == "fine"
    found = fleet.api.client.get(task_id)
    assert (found["id"], found["state"]) == (task_id, "succeeded")
    assert httpx.get(f"{fleet.api.url}{found['links']['result']}", timeout=10).json() == "fine"


def test_an_id_with_a_slash_is_asked_for_in_a_body(fleet: Fleet) -> None:
    assert send(client(fleet.stack), "fine", {"task_id": "a/b"}).get(timeout=20) == "fine"
    refused = httpx.get(f"{fleet.api.url}/v1/jobs/a%2Fb", timeout=10)
    assert refused.status_code == 404
    assert "POST /v1/jobs/results" in refused.json()["detail"]
    line = httpx.post(f"{fleet.api.url}/v1/jobs/results", json={"ids": ["a/b"]}, timeout=10).json()
    assert (line["id"], line["result"]) == ("a/b", "fine")


def test_protocol_1_is_refused(fleet: Fleet) -> None:
    with pytest.raises(Exception, match="set task_protocol = 2"):
        send(client(fleet.stack, task_protocol=1), "old").get(timeout=20)


def test_half_a_surrogate_pair_is_refused_where_its_sender_waits(fleet: Fleet) -> None:
    """Celery repeats the call in a header, where Redis' own reader of JSON refuses it."""
    with pytest.raises(Exception, match="half a surrogate pair"):
        send(client(fleet.stack), "\ud800").get(timeout=20)
    assert send(client(fleet.stack), "after").get(timeout=20) == "after"

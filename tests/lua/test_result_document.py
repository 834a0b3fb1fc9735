"""include/result_document.lua: what it writes Python reads, and what Python writes it cuts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis

from common.jobs.record import JobRecord
from common.jobs.result_document import Stamp
from tests.support.stack import ROOT

INCLUDE = ROOT / "common" / "redis" / "lua" / "include"
TEXT = "".join((INCLUDE / f"{name}.lua").read_text() for name in ("keys", "result_document"))
RECORD = (
    "{ state = 'r', lane = 'echo', created = '7', tenant = 'acme', attempts = 0, "
    "started = 8, worker = 'w' }"
)
FOR_ANOTHER = """
local parts = split_result(ARGV[1], ARGV[2])
return parts and result_for(parts, ARGV[3], ARGV[4], ARGV[5])
"""


def run(client: Redis, code: str, *args: Any) -> Any:
    """Run a line of Lua behind the include."""
    return client.eval(TEXT + code, 0, *args)


def success(job_id: str, result: bytes = b"1", tenant: str = "") -> bytes:
    """A result as a worker writes it."""
    return Stamp("echo", "1", "w", 4, 1.5, 99).success(result, job_id, 1, 7, 8, tenant)


@pytest.mark.parametrize(
    ("state", "reason", "status", "exception"),
    [
        ("canceled", "canceled", "REVOKED", "TaskRevokedError"),
        ("expired", "deadline", "REVOKED", "TaskRevokedError"),
        ("failed", "attempts_exhausted", "FAILURE", "AttemptsExhausted"),
        ("failed", "unreadable", "FAILURE", "UnreadableMessage"),
    ],
)
def test_a_job_that_a_script_ends_is_read_back(
    redis_client: Redis, state: str, reason: str, status: str, exception: str
) -> None:
    code = f"return ending('a', {RECORD}, ARGV[1], ARGV[2], ARGV[3], 99)"
    meta = run(redis_client, code, state, reason, 'he said "no"')
    found = JobRecord.read("a", None, meta)
    assert found is not None
    assert (found.state, found.reason, found.error) == (state, reason, 'he said "no"')
    assert (found.created_ms, found.started_ms, found.finished_ms) == (7, 8, 99)
    assert (found.tenant, found.worker, found.attempts) == ("acme", "w", 1)
    document = json.loads(meta)
    assert (document["status"], document["result"]["exc_type"]) == (status, exception)
    assert run(redis_client, "return state_of_result(ARGV[1])", meta).decode() == state


@pytest.mark.parametrize("tenant", ["", "acme"])
@pytest.mark.parametrize("result", [b"1", b'{"task_id":"a","created_ms":5,"x":"\\"task_id\\":"}'])
def test_a_follower_gets_the_result_with_its_own_id_time_and_tenant(
    redis_client: Redis, result: bytes, tenant: str
) -> None:
    meta = run(redis_client, FOR_ANOTHER, success("a", result, tenant), "a", "b", "55", "beta")
    document, found = json.loads(meta), JobRecord.read("b", None, meta)
    assert found is not None
    assert (document["task_id"], document["result"]) == ("b", json.loads(result))
    assert (found.created_ms, found.tenant, found.shared) == (55, "beta", True)
    assert (found.started_ms, found.finished_ms, found.batch_size) == (8, 99, 4)
    again = run(redis_client, FOR_ANOTHER, meta, "b", "c", "56", "")
    assert again.count(b'"shared":true') == 1
    assert b"beta" not in again


@pytest.mark.parametrize("meta", ["{}", '{"task_id":"a"}', '{"status":"SUCCESS","task_id":"a"}}'])
def test_a_result_that_is_not_as_we_write_it_goes_to_nobody(redis_client: Redis, meta: str) -> None:
    assert run(redis_client, FOR_ANOTHER, meta, "a", "b", "55", "") is None


def test_a_large_result_is_read_without_itself(redis_client: Redis) -> None:
    redis_client.set("celery-task-meta-a", success("a", json.dumps("x" * 9000).encode()), ex=9)
    state, about = run(redis_client, "return { read_about('a') }")
    assert state == b"succeeded"
    assert len(about) < 400
    assert json.loads(about)["lanefleet"]["batch_size"] == 4

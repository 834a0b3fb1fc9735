"""include/result_document.lua: what it writes Python reads, and what Python writes it cuts.

What the scripts write is held against the golden documents; Python's: tests/unit/common/jobs.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from redis import Redis

from common.jobs.record import JobRecord
from common.jobs.result_document import Stamp
from common.redis.keys import meta_key
from common.redis.scripts import Scripts
from tests.lua.cases import (
    DIGEST,
    FLIGHT,
    FOLLOWERS,
    KEYS,
    LANE,
    NOW_MS,
    TTL,
    State,
    Z,
    fill,
    leased,
    message,
    stored,
    together,
)
from tests.support.result_documents import GoldenDocument, golden_documents
from tests.support.stack import ROOT

INCLUDE = ROOT / "common" / "redis" / "lua" / "include"
INCLUDED = ("keys", "iso_date", "result_document")
TEXT = "".join((INCLUDE / f"{name}.lua").read_text() for name in INCLUDED)
RECORD = (
    "{ state = 'r', lane = 'echo', created = '7', tenant = 'acme', attempts = 0, "
    "started = 8, worker = 'w' }"
)
FOR_ANOTHER = """
local parts = split_result(ARGV[1], ARGV[2])
return parts and result_for(parts, ARGV[3], ARGV[4], ARGV[5])
"""

DOCUMENTS = golden_documents()
WRITTEN_IN_LUA = [one for one in DOCUMENTS if one.in_lua]
LEADERS = {one.name: one for one in DOCUMENTS}
TAG = "t1:1"


def record_text(known: dict[str, Any], follows: str = "") -> str:
    """The live record of the job, as enqueue.lua, reserve.lua and start.lua leave it."""
    origin = f"{known['created_ms']}" + (f":{known['tenant']}" if known.get("tenant") else "")
    numbers = [known.get(name, 0) for name in ("deadline_ms", "attempts", "deliveries")]
    words: list[Any] = [known["state"], LANE, origin, *numbers]
    if known["state"] == "w":
        return " ".join(map(str, [*words, follows]))
    tag = TAG if known["state"] == "r" else "-"
    words += [tag, known.get("started_ms", 0), known.get("worker", "-"), known.get("error", "")]
    return " ".join(map(str, words))


def given(golden: GoldenDocument) -> State:
    """The keys of a job that waits, is leased or follows another, before it ends."""
    known, job_id, tenant = golden.known, golden.job_id, golden.known.get("tenant", "")
    if known["state"] == "w":
        leader, digest = LEADERS[known["leader"]].job_id, f"{LANE}:{DIGEST}"
        entry = f"1 {known.get('deadline_ms', 0)} {message(job_id, tenant)}"
        return {
            **leased(leader, TAG),
            f"lf:job:{job_id}": record_text(known, leader),
            FOLLOWERS + leader: {"": f"1 0 {digest}", job_id: entry},
            KEYS.followers: Z({job_id: float("inf")}),
            FLIGHT: f"1 0 {leader}",
        }
    if golden.writer == "reconcile":
        return {f"lf:job:{job_id}": record_text(known)}
    if known["state"] == "q":
        return {LANE: [message(job_id, tenant)], f"lf:job:{job_id}": record_text(known)}
    lease = {KEYS.unacked: {TAG: stored(job_id, tenant)}}
    return together(leased(job_id, TAG), lease, {f"lf:job:{job_id}": record_text(known)})


def arguments(golden: GoldenDocument) -> list[Any]:
    """The words of the call that ends it."""
    job_id, known = golden.job_id, golden.known
    match golden.writer:
        case "cancel":
            return [job_id, TTL, known["as"]]
        case "reserve":
            most = known.get("max_deliveries", 20)
            return [LANE, 1, 30_000, "n.", "w", TTL, 10, most, 0, 0, 2, 10_000, 10_000]
        case "drop_lane":
            return [LANE, 10, TTL]
        case "expire":
            return [LANE, TTL, 1, "", 0, 10]
        case "reconcile":
            return [LANE, TTL, "1", job_id]
        case "start":
            return [LANE, TAG, job_id, known["attempts"], TTL, 10, "w"]
        case "bury":
            return [LANE, TTL, 10, "w", TAG, job_id, known["reason"], known["text"], 1, ""]
        case "finish":
            leader = LEADERS[known["leader"]]
            return [TTL, 6, TAG, leader.job_id, leader.text, "", f"{LANE}:{DIGEST}", 10_000]
    raise AssertionError(f"no call is known for {golden.writer}")


def written_by_script(client: Redis, golden: GoldenDocument) -> bytes:
    """The document that the real script stores."""
    fill(client, given(golden))
    Scripts(client).run(golden.writer, KEYS.as_list(), arguments(golden))
    return client.get(meta_key(golden.job_id)) or b""  # type: ignore[return-value]


def at_golden_time(written: bytes, golden: GoldenDocument) -> bytes:
    """The server's time, where a script has put it, turned into the golden document's."""
    document, time_ms = json.loads(written), golden.document["lanefleet"]["finished_ms"]
    if golden.text:  # a leader's, handed on as it came
        return written
    finished_ms = document["lanefleet"]["finished_ms"]
    assert finished_ms == NOW_MS
    assert document["date_done"] == iso(finished_ms)
    document["date_done"] = golden.document["date_done"]
    document["lanefleet"]["finished_ms"] = time_ms
    return orjson.dumps(document)


@pytest.mark.parametrize("golden", WRITTEN_IN_LUA, ids=lambda one: one.name)
def test_what_a_script_writes_is_the_golden_document(
    redis_client: Redis, golden: GoldenDocument
) -> None:
    golden.holds(at_golden_time(written_by_script(redis_client, golden), golden))


def test_every_script_that_ends_a_job_by_itself_has_an_entry() -> None:
    folder = ROOT / "common" / "redis" / "lua" / "transitions"
    with_endings = {
        script.stem for script in folder.glob("*.lua") if "result_document" in script.read_text()
    }
    # finish.lua and reserve.lua end jobs in files that they include.
    assert with_endings | {"finish", "reserve"} <= {one.writer for one in WRITTEN_IN_LUA}


def iso(ms: int) -> str:
    """As Celery writes a date, but always with its milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="microseconds")


@pytest.mark.parametrize(
    "day",
    [
        "1970-01-01",
        "1999-12-31",
        "2000-02-29",
        "2000-03-01",
        "2023-11-14",
        "2024-02-28",
        "2024-02-29",
        "2024-12-31",
        "2096-02-29",
        "2100-02-28",
        "2100-03-01",
    ],
)
def test_a_date_is_written_as_python_does(redis_client: Redis, day: str) -> None:
    midnight = round(datetime.fromisoformat(f"{day}T00:00Z").timestamp() * 1000)
    for ms in (midnight, midnight + 43_200_099, midnight + 86_399_999):
        assert run(redis_client, "return iso_date(tonumber(ARGV[1]))", ms).decode() == iso(ms)


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

"""Many jobs in one request."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx

from tests.support.stack import Stack, running_redis, wait_until


def test_bulk_answers_every_line_and_takes_what_is_right(stack: Stack) -> None:
    api = stack.api("echo,minilm")
    stack.worker("echo")
    lines = [
        b'{"model": "echo", "input": 1}',
        b'{"model": "nope", "input": 1}',
        b"not json",
        b"",
        b'{"model": "minilm", "input": 5}',
        b'{"model": "echo", "input": NaN}',
        b'{"model": "echo", "input": "last", "priority": 6}',
    ]
    answer = httpx.post(f"{api.url}/v1/jobs/bulk", content=b"\n".join(lines))
    found = {one["line"]: one for one in map(json.loads, answer.text.splitlines())}
    assert sorted(found) == [1, 2, 3, 5, 6, 7]
    assert {n: found[n]["error"]["status"] for n in (2, 3, 5, 6)} == {
        2: 404,
        3: 400,
        5: 422,
        6: 400,
    }
    ids = [found[1]["id"], found[7]["id"]]
    wait_until(lambda: stack.states(ids) == {"succeeded": 2}, 20, "both to run")


def test_a_client_that_reads_nothing_until_it_has_sent_all_is_served(stack: Stack) -> None:
    api = stack.api("echo")
    line = json.dumps({"model": "echo", "input": "x" * 1000}).encode() + b"\n"
    count = 30_000
    began = time.monotonic()
    answer = httpx.post(f"{api.url}/v1/jobs/bulk", content=line * count, timeout=60)
    print(f"{count / (time.monotonic() - began):.0f} jobs/s accepted")
    assert len(answer.text.splitlines()) == count
    assert stack.redis.llen("echo") == count


def test_bulk_stops_at_a_full_lane_and_says_so(stack: Stack) -> None:
    api = stack.api("echo", LANEFLEET_MAX_BACKLOG="10")
    line = b'{"model": "echo", "input": 1}\n'
    answer = httpx.post(f"{api.url}/v1/jobs/bulk", content=line * 15)
    found = [json.loads(one) for one in answer.text.splitlines()]
    assert sum("id" in one for one in found) == 10
    assert {one["error"]["status"] for one in found if "error" in one} == {429}
    single = httpx.post(f"{api.url}/v1/jobs", json={"model": "echo", "input": 1})
    assert single.status_code == 429
    assert 5 <= int(single.headers["retry-after"]) <= 7, "no rate is known: five seconds, spread"


def test_bulk_answers_every_line_also_when_redis_is_away(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        stack = Stack(server.url, tmp_path)
        try:
            api = stack.api("echo")
            server.stop()
            line = b'{"model": "echo", "input": 1}\n'
            answer = httpx.post(f"{api.url}/v1/jobs/bulk", content=line * 1_200, timeout=30)
        finally:
            stack.close()
    found = [json.loads(one) for one in answer.text.splitlines()]
    assert sorted(one["line"] for one in found) == list(range(1, 1_201))
    assert {one["error"]["status"] for one in found} == {503}


def test_large_inputs_travel_in_bulk_a_few_at_a_time(stack: Stack) -> None:
    api = stack.api("minilm")
    line = json.dumps({"model": "minilm", "input": "x" * 3_000_000}).encode() + b"\n"
    before = script_calls(stack)
    answer = httpx.post(f"{api.url}/v1/jobs/bulk", content=line * 12, timeout=30)
    assert sum("id" in json.loads(one) for one in answer.text.splitlines()) == 12
    assert stack.redis.llen("minilm") == 12
    # The API's care for a lane without a worker makes calls besides.
    assert script_calls(stack) - before >= 6, "two of 3 MB at a time"


def script_calls(stack: Stack) -> int:
    return int(stack.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

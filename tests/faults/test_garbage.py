"""What is no job is parked as it is; its neighbours do not notice."""

from __future__ import annotations

import json

import orjson
from celery import Celery

from common.jobs.job import Job
from common.jobs.message import build_message
from common.redis.keys import LaneKeys
from tests.support.lanes import LANE, RecordedLane, assert_lane_is_empty, await_settled
from tests.support.stack import Stack, wait_until


def test_garbage_is_parked_and_its_neighbours_run(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    whole = build_message(Job(LANE, "cut"))
    kinds: list[bytes] = [
        b"not json at all",
        b"{}",
        whole[: len(whole) // 2],
        b"\xff\xfe\x00binary",
        b"[1, 2, 3]",
        b'{"headers": {"id": "x<n>", "task": "infer"}, "body": "%%%"}',
        b'{"headers": {"id": "y<n>"}}',
        b"",
        b"null",
        b'{"id": "a\\u0000b"}',
    ]
    garbage = [kinds[n % len(kinds)].replace(b"<n>", str(n).encode()) for n in range(49)] + [
        b"{" + b"x" * 5_000_000 + b"}"
    ]
    jobs = [Job(LANE, f"n{n}") for n in range(50)]
    ids = []
    with stack.redis as client:
        for job, junk in zip(jobs, garbage, strict=True):
            ids += stack.publish([job])
            client.lpush(LANE, junk)
    worker = stack.worker(LANE)
    await_settled(stack, ids, 30)
    assert stack.states(ids) == {"succeeded": 50}
    assert set(lane.executions().values()) == {1}
    keys = LaneKeys.of(LANE)
    wait_until(lambda: stack.stats(LANE).get("dead") == 50, 20, "50 dead letters")
    with stack.redis as client:
        letters = client.hvals(keys.letters)
    parked = sorted(letter.partition(b"\n")[2] for letter in letters)
    most = stack.settings.max_message_bytes  # of what is larger, only the beginning is kept
    kept = [one if len(one) <= most else one[:4096] for one in garbage]
    assert parked == sorted(kept), "each as it came"
    assert worker.alive
    assert_lane_is_empty(stack)


def test_unknown_tasks_and_pickles_are_parked_with_their_reason(stack: Stack) -> None:
    RecordedLane.on(stack)
    plain = Celery("somebody-else", broker=stack.redis_url, backend=stack.redis_url)
    plain.send_task("shop.send_invoice", args=[1], queue=LANE)
    plain.send_task("infer", kwargs={"model": LANE, "input": b"x"}, queue=LANE, serializer="pickle")
    stack.worker(LANE)
    api = stack.api(LANE)
    wait_until(lambda: len(api.client.dead(LANE)) == 2, 20, "two dead letters")
    reasons = {letter["error"] for letter in api.client.dead(LANE)}
    assert any("unknown task 'shop.send_invoice'" in reason for reason in reasons)
    assert any("send JSON" in reason for reason in reasons)


def test_dead_letters_can_be_shown_retried_and_purged(stack: Stack) -> None:
    RecordedLane.on(stack, LANEFLEET_MAX_ATTEMPTS="1")
    api = stack.api(LANE)
    stack.worker(LANE)
    ids = stack.publish([Job(LANE, f"n{n}", {"fail": "on purpose"}) for n in range(3)])
    await_settled(stack, ids, 20)
    letters = api.client.dead(LANE)
    assert {letter["id"] for letter in letters} == set(ids)
    assert all(letter["attempts"] == 1 and letter["worker"] for letter in letters)
    shown = api.client.dead_letter(LANE, ids[0])
    assert json.loads(shown["message"])["headers"]["id"] == ids[0]
    assert api.client.retry_dead(LANE, [ids[0]]) == 1
    wait_until(lambda: len(api.client.dead(LANE)) == 3, 20, "the retried one to die again")
    assert api.client.retry_dead(LANE) == 3
    wait_until(lambda: len(api.client.dead(LANE)) == 3, 20, "all to die again")
    assert api.client.purge_dead(LANE, [ids[1]]) == 1
    assert api.client.purge_dead(LANE) == 2
    assert api.client.dead(LANE) == []


def test_a_message_nests_deeper_than_the_fast_parser_goes(stack: Stack) -> None:
    RecordedLane.on(stack)
    job = Job(LANE, "deep")
    message = orjson.loads(build_message(job))
    nested = "[" * 900 + "]" * 900
    message["body"] = f'[[],{{"model":"{LANE}","input":{nested}}},{{}}]'
    with stack.redis as client:
        client.lpush(LANE, json.dumps(message))
        client.lpush(LANE, b'{"headers":{"id":"deepest"},"body":' + b"[" * 100_000 + b"}")
        message["headers"]["id"] = "deep-name"
        message["body"] = f'[[],{{"model":{"[" * 1000 + "]" * 1000},"input":1}},{{}}]'
        client.lpush(LANE, json.dumps(message))
    worker = stack.worker(LANE)
    wait_until(lambda: stack.stats(LANE).get("dead") == 2, 20, "the bottomless ones parked")
    await_settled(stack, [job.id], 10)
    assert worker.alive


def test_a_time_beyond_all_calendars_is_parked_and_its_neighbours_run(stack: Stack) -> None:
    """An ETA whose milliseconds are no number: it comes in one reservation with the others."""
    lane = RecordedLane.on(stack)
    jobs = [Job(LANE, f"n{n}") for n in range(4)]
    messages = [orjson.loads(build_message(job)) for job in jobs]
    messages[1]["headers"]["eta"] = 1e308
    stack.publish([jobs[0]])
    with stack.redis as client:
        client.lpush(LANE, orjson.dumps(messages[1]))
    stack.publish(jobs[2:])
    worker = stack.worker(LANE)
    wait_until(lambda: stack.stats(LANE).get("dead") == 1, 20, "the one of no time parked")
    await_settled(stack, [jobs[0].id, *(job.id for job in jobs[2:])], 20)
    assert set(lane.executions()) == {"n0", "n2", "n3"}
    assert worker.alive
    assert_lane_is_empty(stack)

"""Beside stock Celery: revoke, inspect, a kombu consumer on the same lane, its restore."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time

import pytest
from celery import Celery
from kombu import Connection

from common.jobs.job import Job
from common.redis.keys import LaneKeys
from common.redis.scripts import Scripts
from common.settings import Settings
from tests.support.lanes import LANE, RecordedLane, assert_lane_is_empty, await_settled
from tests.support.stack import ROOT, Stack, wait_until
from worker.jobs.leases import LaneLeases, LeasePolicy


def test_a_revoked_job_of_a_pending_batch_does_not_run(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    stack.worker(LANE)
    app = Celery("operator", broker=stack.redis_url, backend=stack.redis_url)
    (first,) = stack.publish([Job(LANE, "first", {"sleep_ms": 5000})])
    wait_until(lambda: lane.executions(), 20, "the device to be busy")
    ids = stack.publish([Job(LANE, f"n{n}") for n in range(32)])
    wait_until(lambda: stack.states(ids).get("running") == 32, 20, "32 pending")
    inspect = app.control.inspect(timeout=20, limit=1)
    (name,) = inspect.ping()
    assert [one["id"] for one in inspect.active()[name]] == [first]
    assert {one["id"] for one in inspect.reserved()[name]} == set(ids)
    app.control.revoke(ids[7])
    wait_until(lambda: stack.states([ids[7]]) == {"canceled": 1}, 20, "the revoke")
    assert inspect.query_task(ids[7])[name] == {}, "it is no longer held"
    assert inspect.query_task(ids[8])[name][ids[8]][0] == "reserved"
    await_settled(stack, [first, *ids], 20)
    assert stack.states(ids) == {"succeeded": 31, "canceled": 1}
    assert "n7" not in lane.executions()
    with pytest.raises(Exception, match="revoked"):
        app.AsyncResult(ids[7]).get(timeout=20)


def test_cancel_over_http_is_final_and_repeatable(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    api = stack.api(LANE)
    queued = api.client.submit(LANE, "queued")
    for _ in range(2):
        assert api.client.cancel(queued["id"])["state"] == "canceled"
    stack.worker(LANE)
    running = api.client.submit(LANE, "running", params={"sleep_ms": 1500})
    wait_until(lambda: "running" in lane.executions(), 20, "it to run")
    assert api.client.cancel(running["id"])["state"] == "canceled"
    after = api.client.submit(LANE, "after", wait=20)
    assert after["state"] == "succeeded"
    wait_until(lambda: stack.stats(LANE).get("fenced") == 1, 20, "its result to be fenced")
    assert api.client.get(running["id"])["state"] == "canceled"
    assert "result" not in api.client.get(running["id"])
    assert "queued" not in lane.executions()
    assert_lane_is_empty(stack)


def test_deadlines_to_start_and_in_all_expire_jobs(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    api = stack.api(LANE)
    late = api.client.submit(LANE, "late", start_within=0.2)
    time.sleep(0.3)  # longer than it may take to start
    stack.worker(LANE)
    assert api.client.get(late["id"], wait=10)["state"] == "expired"
    overrun = api.client.submit(LANE, "overrun", params={"sleep_ms": 1500}, deadline=1)
    answer = api.client.get(overrun["id"], wait=10)
    assert (answer["state"], answer["error"]["reason"]) == ("expired", "deadline")
    assert "result" not in answer
    in_time = api.client.submit(LANE, "intime", start_within=30, deadline=30, wait=10)
    assert in_time["state"] == "succeeded"
    assert set(lane.executions()) == {"overrun", "intime"}


def test_eta_and_countdown_wait_in_redis(stack: Stack) -> None:
    lane = RecordedLane.on(stack)
    stack.worker(LANE)
    plain = Celery("somebody-else", broker=stack.redis_url, backend=stack.redis_url)
    sent = time.time()
    job = plain.send_task(
        "infer", kwargs={"model": LANE, "input": "later"}, queue=LANE, countdown=2
    )
    wait_until(lambda: stack.redis.zcard(LaneKeys.of(LANE).delayed) == 1, 20, "it to be parked")
    assert lane.executions() == {}
    assert job.get(timeout=10) == "later"
    assert 1.9 < time.time() - sent < 5
    record = stack.record(job.id)
    assert record is not None
    assert record.attempts == 1


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_stock_consumer_beside_ours_loses_and_doubles_nothing(stack: Stack, count: int) -> None:
    lane = RecordedLane.on(stack)
    stock_ledger = stack.folder / "stock-ledger"
    stock_ledger.touch()
    code = f"""
        from celery import Celery
        app = Celery("stock", broker={stack.redis_url!r}, backend={stack.redis_url!r})

        @app.task(name="infer")
        def infer(model, input, params=None):
            with open({str(stock_ledger)!r}, "a") as ledger:
                ledger.write(input + " 0 1\\n")
            return input

        app.Worker(pool="solo", queues=[{LANE!r}], loglevel="WARNING", quiet=True).start()
    """
    ids = stack.publish([Job(LANE, f"n{n}") for n in range(count)])
    stock = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
    try:
        wait_until(lambda: stock_ledger.read_text(), 20, "the stock consumer")
        stack.worker(LANE)

        def ran() -> list[str]:
            text = stock_ledger.read_text() + lane.ledger.read_text()
            return [line.split(" ")[0] for line in text.splitlines()]

        wait_until(lambda: len(ran()) >= count, 90, "everything to run")
        wait_until(lambda: not stack.redis.hlen(LaneKeys.of(LANE).unacked), 20, "every ack")
        assert sorted(ran()) == sorted(f"n{n}" for n in range(count)), "0 lost, 0 doubled"
        stock_share = len(stock_ledger.read_text().splitlines())
        assert 0 < stock_share < count, "both worked"
        plain = Celery("x", broker=stack.redis_url, backend=stack.redis_url)
        wait_until(lambda: plain.AsyncResult(ids[0]).ready(), 20, "the first result")
        wait_until(lambda: plain.AsyncResult(ids[-1]).ready(), 20, "the last result")
    finally:
        stock.terminate()
        stock.wait(20)


def test_kombu_can_restore_our_leases(stack: Stack) -> None:
    settings = Settings(redis_url=stack.redis_url)  # type: ignore[arg-type]
    leases = LaneLeases(stack.redis, "echo", "w", LeasePolicy.of(settings))
    ids = stack.publish([Job("echo", f"n{n}") for n in range(3)])
    assert len(leases.reserve(10, 60).leases) == 3
    keys = LaneKeys.of("echo")
    options = {
        "unacked_key": keys.unacked,
        "unacked_index_key": keys.index,
        "visibility_timeout": -3600,  # as if the leases were long over
        "unacked_restore_throttle": 1,
    }
    with Connection(stack.redis_url, transport_options=options) as connection:
        channel = connection.channel()
        channel.qos.restore_visible(num=10, interval=1)
    assert stack.redis.hlen(keys.unacked) == 0
    messages = [json.loads(one) for one in stack.redis.lrange("echo", 0, -1)]
    assert {one["headers"]["id"] for one in messages} == set(ids)
    again = leases.reserve(10, 60).leases
    assert {lease.attempt for lease in again} == {2}, "they come back as suspects"


def test_a_reservation_whose_answer_was_lost_is_handed_back(stack: Stack) -> None:
    settings = Settings(redis_url=stack.redis_url)  # type: ignore[arg-type]
    leases = LaneLeases(stack.redis, "echo", "w", LeasePolicy.of(settings))
    stack.publish([Job("echo", f"n{n}") for n in range(5)])
    scripts = leases._scripts

    class Deaf(Scripts):
        def send(self, name, keys, args):  # type: ignore[no-untyped-def]
            sent = super().send(name, keys, args)
            if name == "reserve":
                sent.result()
                raise ConnectionResetError("the answer got lost")
            return sent

    leases._scripts = Deaf(stack.redis)
    with pytest.raises(ConnectionResetError):
        leases.reserve(3, 60)
    leases._scripts = scripts
    again = leases.reserve(5, 60)
    assert [lease.attempt for lease in again.leases] == [1] * 5, "no attempt was charged"

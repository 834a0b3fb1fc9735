"""Webhooks while their courier is killed again and again and their receiver fails half the time."""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import pytest

from common.jobs.job import Job
from common.redis.keys import EVENTS, LaneKeys, deliveries_key, delivery_key
from tests.support.receiver import Answer, Received, Receiver, listening
from tests.support.stack import Stack, wait_until

CHAOS = {
    "LANEFLEET_WEBHOOK_ALLOW": "127.0.0.0/8",
    "LANEFLEET_WEBHOOK_SCHEDULE_SECONDS": ",".join(["0", "0.1", "0.2", *["0.5"] * 27]),
    "LANEFLEET_WEBHOOK_TIMEOUT_SECONDS": "1",
    "LANEFLEET_LEASE_SECONDS": "2",
}


def misbehave(dice: random.Random) -> Answer:
    """30 % answer 500, 10 % hang, 5 % reset the connection."""
    throw = dice.random()
    if throw < 0.30:
        return 500, {}
    if throw < 0.40:
        return 3.0
    return None if throw < 0.45 else (200, {})


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_courier_killed_every_five_seconds_loses_no_event(own_stack: Stack) -> None:
    stack, dice, accepted = own_stack, random.Random(7), Counter[str]()

    def answer(one: Received) -> Answer:
        said = misbehave(dice)
        if isinstance(said, tuple) and said[0] == 200:
            accepted[one.id] += 1
        return said

    stack.environment.update(CHAOS)
    stack.worker("echo")
    ids: list[str] = []
    with listening(Receiver(answer)) as receiver:
        courier = stack._start("courier", ["-m", "worker", "--role", "courier"], "echo", {})
        kills, ends = 0, time.monotonic() + 60
        while time.monotonic() < ends:
            kill_at = time.monotonic() + 5
            while time.monotonic() < kill_at:
                jobs = [Job("echo", n, webhook=receiver.url) for n in range(10)]
                ids += stack.publish(jobs)
                time.sleep(0.25)
            courier.kill()
            kills += 1
            courier = stack._start("courier", ["-m", "worker", "--role", "courier"], "echo", {})
        wait_until(lambda: settled(stack, len(ids)), 240, "every delivery")
        told = Counter(json.loads(one.body)["data"]["id"] for one in receiver.received)
        assert set(told) == set(ids), "every event at least once, and no other"
        by_job: dict[str, set[str]] = {}
        for one in receiver.received:
            by_job.setdefault(json.loads(one.body)["data"]["id"], set()).add(one.id)
        assert all(len(found) == 1 for found in by_job.values()), "duplicates share their id"
    logged = check_logs(stack)
    doubled = sum(count > 1 for count in accepted.values())
    print(
        f"{len(ids)} events, {kills} kills: {len(receiver.received)} requests, {logged} logged, "
        f"{doubled} accepted twice, 0 lost"
    )


def settled(stack: Stack, events: int) -> bool:
    """Whether all are in the log and none is on its way."""
    made = stack.redis.zcard(deliveries_key("")) == events
    in_lane = stack.redis.hlen(LaneKeys.of("~webhook").tenants)
    return bool(made and not in_lane and not stack.redis.xlen(EVENTS))


def check_logs(stack: Stack) -> int:
    """Each log ends with its delivery, and each attempt before it failed; how many there are."""
    logged = 0
    for name in stack.redis.zrange(deliveries_key(""), 0, -1):
        state, log = stack.redis.hmget(delivery_key(name.decode()), "state", "log")
        attempts = json.loads(log)
        assert state == b"delivered"
        assert attempts[-1][1] == 200
        assert attempts[-1][4] == ""
        assert all(one[4] for one in attempts[:-1])
        logged += len(attempts)
    return logged

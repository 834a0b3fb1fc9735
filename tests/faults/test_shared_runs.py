"""Identical jobs that share a run, while workers die under it; and hits while Redis is full."""

from __future__ import annotations

from pathlib import Path

import httpx
import yaml

from common.redis.keys import LaneKeys
from tests.support.lanes import (
    LANE,
    RecordedLane,
    assert_lane_is_empty,
    assert_one_terminal_record_each,
    await_settled,
)
from tests.support.stack import ApiProcess, Process, Stack, running_redis, wait_until

LEASE = {"LANEFLEET_LEASE_SECONDS": "1"}


def kept_lane(stack: Stack, **environment: str) -> RecordedLane:
    """The recorded lane, with a cache."""
    lane = RecordedLane.on(stack, **LEASE, **environment)
    path = Path(stack.environment["LANEFLEET_CATALOG"])
    catalog = yaml.safe_load(path.read_text())
    catalog["models"][LANE]["cache_seconds"] = 60
    path.write_text(yaml.safe_dump(catalog))
    stack.environment["LANEFLEET_STATE_DIR"] = str(stack.folder / "state")
    return lane


def worker_and_api(stack: Stack, **environment: str) -> tuple[Process, ApiProcess]:
    worker = stack.worker(LANE)
    wait_until(lambda: stack.redis.exists("lf:fingerprints"), 20, "the fingerprint")
    return worker, stack.api(LANE, **environment)


def takes_work(api: ApiProcess) -> bool:
    return bool(httpx.get(f"{api.url}/ready").json().get("queue") == "ok")


def test_a_leader_whose_worker_is_killed_leads_again_and_all_get_one_result(
    stack: Stack, tmp_path: Path
) -> None:
    lane = kept_lane(stack)
    worker, api = worker_and_api(stack)
    gate = tmp_path / "open"
    params = {"until": str(gate)}
    leader = api.client.submit(LANE, "same", params=params)
    wait_until(lane.executions, 20, "it to run")
    jobs = [leader, *(api.client.submit(LANE, "same", params=params) for _ in range(30))]
    ids = [job["id"] for job in jobs]
    assert stack.redis.zcard(LaneKeys.of(LANE).followers) == 30
    assert api.client.get(ids[5])["state"] == "queued"
    heard = stack.redis.pubsub(ignore_subscribe_messages=True)
    heard.psubscribe("celery-task-meta-*")
    heard.get_message(timeout=20)  # that we are subscribed
    worker.kill()
    gate.touch()
    stack.worker(LANE)
    await_settled(stack, ids, 20)
    assert {api.client.get(one)["result"] for one in ids} == {"same"}
    assert lane.executions() == {"same": 2}, "once by the one that was killed"
    published = 0
    while told := heard.get_message(timeout=0.5):
        # A worker that comes asks whether it may publish, on a channel of no job.
        published += not told["channel"].endswith(b"-meta--")
    assert published == 31, "each result once"
    assert_one_terminal_record_each(stack, ids)
    assert_lane_is_empty(stack)
    assert not list(stack.redis.scan_iter("lf:followers:*"))


def test_a_poisonous_leader_dies_and_its_follower_has_its_own_try(stack: Stack) -> None:
    lane = kept_lane(stack, LANEFLEET_MAX_ATTEMPTS="1")
    worker, api = worker_and_api(stack)
    worker.kill()
    jobs = [api.client.submit(LANE, "poison", params={"die": True}) for _ in range(2)]
    ids = [job["id"] for job in jobs]
    deaths = 0
    while deaths < 4 and stack.states(ids) != {"failed": 2}:
        victim = stack._start("worker", ["-m", "worker"], LANE, {})
        wait_until(
            lambda victim=victim: not victim.alive or stack.states(ids) == {"failed": 2},  # type: ignore[misc]
            20,
            "a death, or an end",
        )
        deaths += not victim.alive
    assert [api.client.get(one)["error"]["reason"] for one in ids] == ["attempts_exhausted"] * 2
    assert lane.executions()["poison"] == 2, "each was tried once"
    assert {letter["id"] for letter in api.client.dead(LANE)} == set(ids)
    assert not list(stack.redis.scan_iter("lf:followers:*"))


def test_hits_are_answered_while_the_queues_redis_is_full(stack: Stack, tmp_path: Path) -> None:
    kept_lane(stack)
    with running_redis(tmp_path / "cache") as cache:
        stack.environment["LANEFLEET_CACHE_REDIS_URL"] = cache.url
        _, api = worker_and_api(stack)
        wait_until(lambda: api.client.submit(LANE, "kept", wait=10).get("cached"), 20, "a hit")
        assert not list(stack.redis.scan_iter("lf:cache:*")), "it is kept in the other one"
        stack.redis.config_set("maxmemory", 1)
        try:
            hit = api.client.submit(LANE, "kept")
            assert (hit["cached"], hit["result"]) == (True, "kept")
        finally:
            stack.redis.config_set("maxmemory", 0)
        cache.stop()
        wait_until(lambda: takes_work(api), 20, "the API to see that there is memory")
        again = api.client.submit(LANE, "kept", wait=10)
        assert (again["state"], again.get("cached")) == ("succeeded", None)

"""Every way in which a job can end leaves one event, and says how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from api.cache.result_cache import Hit, ResultCache
from common.jobs.cache_entry import Entry
from common.jobs.enqueue import publish_many
from common.jobs.job import ENDS, EVENT_OF_STATE, CacheTicket, Job
from common.jobs.result_document import Stamp
from common.jobs.script_calls import CancelCall, DropCall, ExpireCall
from common.redis.connect import connect_async
from common.redis.embedded_server import RedisServer
from common.redis.keys import EVENTS, NEXT_PREFIX, OUTBOX, LaneKeys, job_key
from common.redis.scripts import Scripts
from common.settings import Settings
from common.webhooks.events import read_entry
from worker.jobs.lease_calls import DeadLetter, FinishedJob, StartCall
from worker.jobs.leases import LaneLeases, Lease, LeasePolicy
from worker.maintenance.reconciler import ReconcileCall

LANE, URL, TTL = "echo", "https://example.com/hook", 100
KEYS = LaneKeys.of(LANE)
TICKET = CacheTicket("d" * 64, LANE, "w")
META = Stamp(LANE, "1", "w", 1, 1.0, 1).success(b'"done"', "a", 1, 1, 1, "acme")


class Fleet:
    """One lane, and what its workers and front do."""

    def __init__(self, client: Redis, url: str) -> None:
        self.client, self.url = client, url
        self.scripts = Scripts(client)
        policy = LeasePolicy.of(Settings())
        self.leases = LaneLeases(client, LANE, "w", policy)

    def accept(self, job_id: str = "a", **fields: Any) -> Job:
        job = Job(LANE, "x", id=job_id, **{"webhook": URL, "tenant": "acme", **fields})
        publish_many(self.client, [job])
        return job

    def lease(self, job_id: str = "a", **fields: Any) -> Lease:
        self.accept(job_id, **fields)
        (lease,) = self.leases.reserve(5, TTL).leases
        return lease

    def finish(self, lease: Lease, flight: str = "", failure: Any = "", told: Any = "1") -> None:
        meta = META
        if failure:
            meta = META.replace(b'"SUCCESS"', b'"FAILURE"').replace(b'"succeeded"', b'"failed"')
        job = FinishedJob(lease.tag, "a", meta, "acme", flight, 9_000, failure, "", told)
        assert self.leases.finish([job], TTL) == []


def finished(fleet: Fleet) -> None:
    fleet.finish(fleet.lease())


def model_failed(fleet: Fleet) -> None:
    fleet.finish(fleet.lease(), failure="input")


def canceled_waiting(fleet: Fleet) -> None:
    fleet.accept()
    fleet.scripts.run("cancel", (), CancelCall("a", TTL, "canceled"))


def canceled_leased(fleet: Fleet) -> None:
    fleet.lease()
    fleet.scripts.run("cancel", (), CancelCall("a", TTL, "canceled"))


def deadline_passed(fleet: Fleet) -> None:
    fleet.lease(deadline_ms=4_000_000_000_000)
    fleet.scripts.run("cancel", (), CancelCall("a", TTL, "expired"))


def expired_at_reservation(fleet: Fleet) -> None:
    fleet.accept(deadline_ms=1)
    assert fleet.leases.reserve(5, TTL).leases == []


def expired_unserved(fleet: Fleet) -> None:
    fleet.accept(deadline_ms=1)
    call = ExpireCall(LANE, TTL, 1, "", 0, 100)
    assert fleet.scripts.run("expire", KEYS.as_list(), call)[1] == 1


def buried(fleet: Fleet) -> None:
    lease = fleet.lease()
    letter = DeadLetter(lease.tag, "a", "attempts_exhausted", "no", 3, b"")
    assert fleet.leases.bury([letter], TTL) == 1


def attempts_spent_at_start(fleet: Fleet) -> None:
    lease = fleet.lease()
    call = StartCall(LANE, lease.tag, "a", 0, TTL, 10, "w")
    assert fleet.scripts.run("start", KEYS.as_list(), call) == -1


def delivered_too_often(fleet: Fleet) -> None:
    fleet.accept()
    record = fleet.client.get(job_key("a"))
    assert isinstance(record, bytes)
    fleet.client.set(job_key("a"), record + b" 0 1 9999 - 0 - ")
    assert fleet.leases.reserve(5, TTL).leases == []


def too_large(fleet: Fleet) -> None:
    fleet.accept()
    policy = LeasePolicy.of(Settings())._replace(max_message_bytes=10)
    assert LaneLeases(fleet.client, LANE, "w", policy).reserve(5, TTL).leases == []


def message_lost(fleet: Fleet) -> None:
    fleet.accept()
    fleet.client.delete(*KEYS.bands)
    args = [*ReconcileCall(LANE, TTL, "1"), "a"]
    assert fleet.scripts.run("reconcile", KEYS.as_list(), args) == [b"a"]


def lane_dropped(fleet: Fleet) -> None:
    fleet.accept()
    fleet.scripts.run("drop_lane", KEYS.as_list(), DropCall(LANE, 100, TTL))


def shared_run(fleet: Fleet) -> None:
    leader = fleet.lease("a", webhook="", cache=TICKET)
    fleet.accept("b", cache=TICKET)
    fleet.finish(leader, f"{LANE}:{TICKET.digest}", told="")


def follower_expired(fleet: Fleet) -> None:
    fleet.lease("a", webhook="", cache=TICKET)
    fleet.accept("b", cache=TICKET, deadline_ms=1)
    fleet.leases.reap()


def arrived_meanwhile(fleet: Fleet) -> None:
    fleet.finish(fleet.lease("a", webhook="", cache=TICKET), f"{LANE}:{TICKET.digest}", told="")
    fleet.accept("b", cache=TICKET)


def cached(fleet: Fleet) -> None:
    async def write() -> None:
        client = connect_async(fleet.url, Settings())
        cache = ResultCache(client, client, 5.0, lambda _lane: TTL)
        hit = Hit("a", LANE, Entry(b'"kept"', 1, "1", "w"), 1_000, "acme", URL)
        assert await cache._write([hit])
        await client.aclose()

    asyncio.run(write())


WAYS: dict[str, Callable[[Fleet], None]] = {
    name: one for name, one in list(globals().items()) if name in ENDS
}


@pytest.fixture
def fleet(redis_client: Redis, embedded_redis: RedisServer) -> Fleet:
    redis_client.flushall()
    return Fleet(redis_client, embedded_redis.url)


@pytest.mark.parametrize("way", ENDS)
def test_every_end_leaves_one_event(fleet: Fleet, way: str) -> None:
    WAYS[way](fleet)
    entries: Any = fleet.client.xrange(EVENTS)
    assert len(entries) == 1
    event = read_entry(entries[0][1], 20_000, "")
    assert event.type == EVENT_OF_STATE[ENDS[way]]
    assert (event.tenant, event.target) == ("acme", URL)
    assert not fleet.client.keys(f"{NEXT_PREFIX}*")
    assert not fleet.client.exists(OUTBOX)


def test_a_job_without_a_webhook_leaves_none(fleet: Fleet) -> None:
    fleet.finish(fleet.lease(webhook=""))
    assert not fleet.client.exists(EVENTS, OUTBOX)


def test_a_refused_or_repeated_job_keeps_nothing(fleet: Fleet) -> None:
    job = fleet.accept()
    publish_many(fleet.client, [job, replace(job, id="b")], max_backlog=1)
    assert fleet.client.keys(f"{NEXT_PREFIX}*") == [f"{NEXT_PREFIX}a".encode()]


def test_a_dead_job_that_is_retried_tells_again(fleet: Fleet) -> None:
    buried(fleet)
    assert fleet.scripts.run("dead_retry", KEYS.as_list(), [8, "", 0, 1, 0, "a"]) == [1, 1, 0]
    (lease,) = fleet.leases.reserve(5, TTL).leases
    fleet.finish(lease)
    assert fleet.client.xlen(EVENTS) == 2


def test_a_large_result_is_told_of_without_it(fleet: Fleet) -> None:
    lease = fleet.lease()
    large = Stamp(LANE, "1", "w", 1, 1.0, 1).success(
        b'"%s"' % (b"x" * 100_000), "a", 1, 1, 1, "acme"
    )
    job = FinishedJob(lease.tag, "a", large, "acme", "", "", "", "", "1")
    fleet.leases.finish([job], TTL)
    ((_, fields),) = fleet.client.xrange(EVENTS)  # type: ignore[misc]
    assert sum(map(len, fields.values())) < 4_096
    event = read_entry(fields, 20_000, "https://fleet.example")
    assert b"https://fleet.example/v1/jobs/a/result" in event.body
    assert b"result_omitted" in event.body

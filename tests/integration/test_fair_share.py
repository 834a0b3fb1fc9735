"""Tenants take turns: what stands in the lists, what waits beside them, and who is served next."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import pytest
from redis import Redis

from common.errors import QuotaExceeded, RateLimited
from common.jobs.enqueue import enqueue_args, positions, publish_many, quotas
from common.jobs.job import Job
from common.jobs.quota import Limits
from common.jobs.record import JobRecord
from common.redis.connect import connect
from common.redis.embedded_server import RedisServer
from common.redis.keys import BANDS, OVER_TOTALS, LaneKeys, job_key, meta_key
from common.redis.scripts import Scripts
from common.settings import Settings
from worker.jobs.lease_calls import DeadLetter, FinishedJob, ReleasedJob, RetryJob
from worker.jobs.leases import LaneLeases, Lease, LeasePolicy

LANE = "shared"
KEYS = LaneKeys.of(LANE)
IN_FLIGHT = "lf:tenants:in_flight"
FLEET = Settings(tenant_window_jobs=4, lease_seconds=3600, max_attempts=2)
LEASES = LeasePolicy.of(FLEET)
TTL = 1000


class Fleet:
    """One lane of an empty Redis, a worker that reserves from it, and what it holds."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.scripts = Scripts(client)
        self.leases = LaneLeases(client, LANE, "worker", LEASES)

    def send(self, tenant: str, count: int = 1, priority: int = 0, **fields: int) -> list[Job]:
        jobs = [
            Job(LANE, n, tenant=tenant, priority=priority, **fields)  # type: ignore[arg-type]
            for n in range(count)
        ]
        publish_many(self.client, jobs, window=FLEET.tenant_window_jobs)
        return jobs

    def reserve(self, wanted: int) -> list[Lease]:
        return self.leases.reserve(wanted, TTL).leases

    def finish(self, leases: list[Lease]) -> None:
        outcomes = [
            FinishedJob(lease.tag, id_of(lease), b"{}", tenant=owner(lease)) for lease in leases
        ]
        assert self.leases.finish(outcomes, TTL) == []

    def in_flight(self) -> dict[str, int]:
        here, everywhere = self.counts(f"lf:lane:{LANE}:tenants"), self.counts(IN_FLIGHT)
        assert here == everywhere, "one lane only"
        return here

    def counts(self, key: str) -> dict[str, int]:
        return {name.decode(): int(n) for name, n in self.client.hgetall(key).items()}  # type: ignore[union-attr]

    def check(self) -> None:
        """What is counted is what is there, and whoever waits beside has a full window."""
        over = self.counts(KEYS.over)
        for band, (key, total) in enumerate(zip(KEYS.bands, OVER_TOTALS, strict=True), 1):
            standing = Counter(
                name for message in self.client.lrange(key, 0, -1) if (name := sender(message))
            )  # type: ignore[union-attr]
            assert self.counts(f"lf:lane:{LANE}:placed:{band}") == dict(standing)
            beside = {
                name.partition(":")[2]: n
                for name, n in over.items()
                if name.startswith(total) and name != total
            }
            assert over.get(total, 0) == sum(beside.values())
            for tenant, count in beside.items():
                assert self.client.llen(f"lf:lane:{LANE}:over:{band}:{tenant}") == count
                assert standing[tenant] >= FLEET.tenant_window_jobs


def sender(message: bytes) -> str:
    return message.partition(b'"tenant":"')[2].partition(b'"')[0].decode()


def owner(lease: Lease) -> str:
    return lease.origin.partition(b":")[2].decode()


def id_of(lease: Lease) -> str:
    return lease.message.partition(b'"id":"')[2].partition(b'"')[0].decode()


@pytest.fixture
def fleet(embedded_redis: RedisServer) -> Iterator[Fleet]:
    with connect(embedded_redis.url, FLEET) as client:
        client.flushall()
        yield Fleet(client)


def test_one_job_is_reserved_at_once_behind_a_hundred_thousand_of_another(fleet: Fleet) -> None:
    fleet.send("heavy", 100_000)
    (one,) = fleet.send("light")
    assert one.id in map(id_of, fleet.reserve(FLEET.tenant_window_jobs + 1))
    fleet.check()


def test_tenants_share_every_reservation_alike(fleet: Fleet) -> None:
    for tenant, count in (("a", 1000), ("b", 300), ("c", 300)):
        fleet.send(tenant, count)
    for _ in range(5):
        reserved = Counter(map(owner, fleet.reserve(60)))
        assert reserved == {"a": 20, "b": 20, "c": 20}
        fleet.check()


def test_each_tenants_jobs_keep_their_order_and_a_deep_lane_fills_a_reservation(
    fleet: Fleet,
) -> None:
    sent = {tenant: fleet.send(tenant, 600) for tenant in ("a", "b", "")}
    reserved: list[Lease] = []
    while leases := fleet.reserve(256):
        assert len(leases) == min(256, 1800 - len(reserved))
        reserved += leases
        fleet.check()
    for tenant, jobs in sent.items():
        assert [id_of(one) for one in reserved if owner(one) == tenant] == [job.id for job in jobs]
    fleet.finish(reserved)
    assert not fleet.in_flight()
    assert not fleet.client.keys("lf:lane:shared:over*")


def test_what_waits_beside_counts_as_backlog(fleet: Fleet) -> None:
    fleet.send("a", 100)
    fleet.send("b", 50, priority=6)
    reservation = fleet.leases.reserve(10, TTL)
    assert reservation.left_waiting == 140
    outcomes = publish_many(fleet.client, [Job(LANE, 0, tenant="c")], max_backlog=151)
    assert outcomes == [150]
    refused = publish_many(fleet.client, [Job(LANE, 0, tenant="c")], max_backlog=151)
    assert "is full" in str(refused[0])


def test_a_stock_consumer_drains_everything_with_the_caretakers_help(fleet: Fleet) -> None:
    fleet.send("a", 50)
    fleet.send("b", 20)
    fleet.send("", 5)
    drained = []
    for _ in range(40):
        while message := fleet.client.rpop(KEYS.bands[0]):
            drained.append(sender(message))  # type: ignore[arg-type]
        fleet.leases.reap()
    assert Counter(drained) == {"a": 50, "b": 20, "": 5}
    assert not fleet.in_flight(), "an empty lane holds nobody's jobs"


def test_jobs_that_others_took_do_not_keep_a_tenant_waiting(fleet: Fleet) -> None:
    fleet.send("a", 50)
    fleet.send("", 3)
    for _ in range(4):
        fleet.client.rpop(KEYS.bands[0])  # all that stood in the list of `a`
    fleet.leases.reap()
    fleet.check()
    assert fleet.in_flight()["a"] == 49, "no more than the lane holds"


def test_whatever_happens_the_counts_are_right(fleet: Fleet) -> None:
    for seed in range(8):
        fleet.client.flushdb()
        _live_a_little(fleet, random.Random(seed))


def _live_a_little(fleet: Fleet, dice: random.Random) -> None:
    jobs: list[Job] = []
    held: list[Lease] = []
    for _ in range(60):
        match dice.randrange(8):
            case 0 | 1:
                tenant, band = dice.choice(["a", "b", ""]), dice.choice([0, 0, 0, 3, 9])
                expired = dice.choice([None, None, 1])
                jobs += fleet.send(tenant, dice.randrange(1, 12), band, deadline_ms=expired)  # type: ignore[arg-type]
            case 2 | 3:
                held += fleet.reserve(dice.choice([1, 3, 8, 20]))
            case 4:
                done, held = held[:5], held[5:]
                known = [lease for lease in done if fleet.client.hexists(KEYS.unacked, lease.tag)]
                fleet.finish(known)
            case 5 if jobs:
                job = dice.choice(jobs)
                fleet.scripts.run("cancel", (), (job.id, TTL, "canceled"))
            case 6 if held:
                lease = held.pop()
                ours = (lease.tag, id_of(lease))
                if dice.random() < 0.5:
                    fleet.leases.release([ReleasedJob(*ours, True)])
                else:
                    fleet.leases.retry([RetryJob(*ours, delay_ms=0, error="failed once")])
            case 7 if held:
                lease = held.pop()
                letter = DeadLetter(lease.tag, id_of(lease), "failed", "it failed", 1, b"")
                fleet.leases.bury([letter], TTL)
                if dice.random() < 0.5:
                    ids = fleet.client.zrange(KEYS.dead, 0, -1)
                    words = (4, "", 0, 1, 0, *ids)  # type: ignore[misc]
                    fleet.scripts.run("dead_retry", KEYS.as_list(), words)
        fleet.check()
        live = Counter(job.tenant for job in jobs if job.tenant and _unsettled(fleet, job))
        assert fleet.in_flight() == dict(live)


def _unsettled(fleet: Fleet, job: Job) -> bool:
    found = fleet.client.mget(job_key(job.id), meta_key(job.id))
    record = found[0]
    # A canceled one counts until its message is dropped, which takes the tenant from its record.
    return bool(record) and (not record.startswith(b"x") or b":" in record)


def test_a_job_tells_whose_it_is_before_and_after(fleet: Fleet) -> None:
    (job,) = fleet.send("a")
    keys = job_key(job.id), meta_key(job.id)
    assert JobRecord.read(job.id, *fleet.client.mget(*keys)).tenant == "a"  # type: ignore[union-attr]
    fleet.reserve(1)
    record = JobRecord.read(job.id, *fleet.client.mget(*keys))
    assert record is not None
    assert (record.tenant, record.state, record.attempts) == ("a", "running", 1)
    fleet.scripts.run("cancel", (), (job.id, TTL, "canceled"))
    record = JobRecord.read(job.id, *fleet.client.mget(*keys))
    assert record is not None
    assert (record.tenant, record.state) == ("a", "canceled")


def test_a_dead_letter_says_whose_it_is(fleet: Fleet) -> None:
    (job,) = fleet.send("a")
    (lease,) = fleet.reserve(1)
    fleet.leases.bury([DeadLetter(lease.tag, job.id, "failed", "it failed", 1, b"")], TTL)
    letter = fleet.client.hget(KEYS.letters, job.id)
    assert b'"tenant":"a"' in letter.partition(b"\n")[0]  # type: ignore[union-attr]
    assert not fleet.in_flight()


def _send(fleet: Fleet, tenant: str, count: int, limits: Limits) -> list[str]:
    jobs = [Job(LANE, n, tenant=tenant, limits=limits) for n in range(count)]
    reply = fleet.scripts.run("enqueue", (), enqueue_args(jobs, 1_000_000))
    outcomes = positions(jobs, reply)
    assert set(quotas(jobs, reply)) == {tenant}
    return ["taken" if isinstance(one, int) else one.code for one in outcomes]


def test_a_tenants_rate_is_a_bucket_that_fills_again(fleet: Fleet) -> None:
    limits = Limits(jobs_per_second=20, burst=5)
    assert Counter(_send(fleet, "a", 8, limits)) == {"taken": 5, RateLimited.code: 3}
    assert set(_send(fleet, "b", 5, limits)) == {"taken"}, "another tenant has a bucket of its own"
    fleet.client.set("lf:rate:a", fleet.client.time()[0] * 1000 - 100)  # type: ignore[index]
    assert Counter(_send(fleet, "a", 8, limits))["taken"] == 5
    assert fleet.client.pttl("lf:rate:a") <= 250, "a full bucket needs no memory"


def test_a_tenant_has_no_more_in_flight_than_it_may(fleet: Fleet) -> None:
    limits = Limits(max_in_flight=3)
    assert Counter(_send(fleet, "a", 5, limits)) == {"taken": 3, QuotaExceeded.code: 2}
    fleet.finish(fleet.reserve(2))
    assert Counter(_send(fleet, "a", 5, limits)) == {"taken": 2, QuotaExceeded.code: 3}


def test_a_repeated_call_is_charged_once(fleet: Fleet) -> None:
    limits = Limits(jobs_per_second=1, burst=10, max_in_flight=10)
    jobs = [Job(LANE, n, tenant="a", limits=limits) for n in range(6)]
    first = fleet.scripts.run("enqueue", (), enqueue_args(jobs, 100))
    again = fleet.scripts.run("enqueue", (), enqueue_args(jobs, 100))
    assert all(place >= 0 for place in chain(first[:6], again[:6]))
    assert quotas(jobs, again)["a"].remaining == 4
    assert fleet.in_flight() == {"a": 6}


def test_priorities_still_come_first(fleet: Fleet) -> None:
    fleet.send("a", 40, priority=9)
    fleet.send("b", 10, priority=0)
    reserved = fleet.reserve(10)
    assert Counter(map(owner, reserved)) == {"b": 10}
    assert BANDS[0] == 0


def test_a_tenants_job_is_told_its_place_by_turns(fleet: Fleet) -> None:
    heavy, light = fleet.send("heavy", 50), fleet.send("light", 6)
    place = lambda job: fleet.scripts.run("queue_position", (), (job.id,))[0]  # noqa: E731
    assert [place(heavy[n]) for n in (0, 3)] == [0, 3]
    assert place(light[0]) == 4
    assert place(light[5]) == 8 + 1 + 1, "one of theirs goes before it, of all that wait"
    assert place(heavy[49]) == 8 + 45 + 2

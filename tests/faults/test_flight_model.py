"""Identical jobs that share a run, in random order over a real server.

What must hold whatever happens: every job that was taken is in one place until it is
settled, it is settled once, with the result of its own input, and once all are settled
nothing of the flights is left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from common.jobs.enqueue import enqueue_args
from common.jobs.job import CacheTicket, Job
from common.jobs.record import JobRecord
from common.redis.connect import connect
from common.redis.embedded_server import RedisServer
from common.redis.keys import BANDS, META_PREFIX, LaneKeys, blob_key, job_key, meta_key
from common.redis.scripts import Scripts
from common.settings import Settings
from tests.support.moves import Move, is_of_a_flight, moves_in_diagram, recorded_moves
from worker.jobs.lease_calls import DeadLetter, FinishedJob, ReleasedJob, RetryJob
from worker.jobs.leases import LaneLeases, Lease, LeasePolicy
from worker.jobs.message import parse

LANE = "shared"
KEYS = LaneKeys.of(LANE)
FLEET = Settings(max_attempts=3, lease_seconds=3600)
LEASES = LeasePolicy.of(FLEET)
TTL_SECONDS = 10_000
FAR_MS = 4_000_000_000_000
picks = st.lists(st.integers(0, 99), min_size=1, max_size=6)
FAILURES: dict[str, Literal["", "input", "other"]] = {
    "succeeds": "",
    "is refused": "input",
    "fails": "other",
}
TERMINAL = {"succeeded", "failed", "canceled", "expired"}


class FlightMachine(RuleBasedStateMachine):
    """Clients that send the same few inputs, two workers, a reaper, and strangers."""

    def __init__(self, client: Redis) -> None:
        super().__init__()
        client.flushdb()
        self.client = client
        self.scripts = Scripts(client)
        self.workers = [LaneLeases(client, LANE, name, LEASES) for name in ("one", "two")]
        self.serial = count(1)
        self.runs = count(1)
        self.jobs: dict[str, Job] = {}
        self.leases: dict[bytes, tuple[Lease, Job]] = {}
        self.heard: Counter[str] = Counter()
        self.foreign: set[str] = set()
        self.purged: set[str] = set()
        """Whose message somebody deleted."""
        self.listener = client.pubsub()
        self.listener.psubscribe(f"{META_PREFIX}*")
        self.listener.get_message(timeout=20)

    # -- clients ----------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.submit([0, 0, 1, 0], 0, "none", blob=True)

    @rule(
        inputs=st.lists(st.integers(0, 2), min_size=1, max_size=5),
        band=st.sampled_from([0, 0, 1, 3]),
        limit=st.sampled_from(["none", "none", "start", "deadline"]),
        blob=st.booleans(),
        tenant=st.sampled_from(["", "a", "b"]),
    )
    def submit(
        self, inputs: list[int], band: int, limit: str, blob: bool, tenant: str = ""
    ) -> None:
        jobs = [
            Job(
                LANE,
                f"input {number}",
                id=f"job-{next(self.serial):04}",
                priority=BANDS[band],
                start_by_ms=FAR_MS if limit == "start" else None,
                deadline_ms=FAR_MS if limit == "deadline" else None,
                blob=b"large" if blob else None,
                cache=CacheTicket(f"{number:064x}", LANE, "w"),
                tenant=tenant,
            )
            for number in inputs
        ]
        args = enqueue_args(jobs, 1_000_000)
        assert min(self.scripts.run("enqueue", (), args)[: len(jobs)]) >= 0
        self.jobs |= {job.id: job for job in jobs}
        self.scripts.run("enqueue", (), args)  # sent again, as after a lost answer

    @rule(number=st.integers(0, 999))
    def cancel(self, number: int) -> None:
        name = list(self.jobs)[-1 - number % len(self.jobs)]
        if name in self.foreign:
            return  # nobody told us that it is done
        self.scripts.run("cancel", (), (name, TTL_SECONDS, "canceled"))
        self.leases = {tag: one for tag, one in self.leases.items() if one[1].id != name}

    # -- workers ----------------------------------------------------------

    @rule(worker=st.integers(0, 1), wanted=st.integers(1, 4))
    def reserve(self, worker: int, wanted: int) -> None:
        for lease in self.workers[worker].reserve(wanted, TTL_SECONDS).leases:
            job = self.jobs[parse(lease, LANE, 0.0).job_id]
            assert job.id not in {held.id for _, held in self.leases.values()}, "leased twice"
            self.leases[lease.tag] = (lease, job)

    def _chosen(self, numbers: list[int]) -> list[tuple[Lease, Job]]:
        held = list(self.leases.values())
        return list(
            {one[0].tag: one for n in numbers if held for one in [held[n % len(held)]]}.values()
        )

    @rule(numbers=picks, ends=st.sampled_from(["succeeds", "succeeds", "is refused", "fails"]))
    def finish(self, numbers: list[int], ends: str) -> None:
        outcomes = []
        for lease, job in self._chosen(numbers):
            assert job.cache is not None
            run = f"{job.input} run {next(self.runs)}"
            state = "succeeded" if ends == "succeeds" else "failed"
            about = {"state": state, "lane": LANE, "attempts": lease.attempt}
            assert lease.tenant == job.tenant
            # What the model returns may look like what we write.
            result = {"run": run, "task_id": job.id, "created_ms": 7, "x": '"task_id":"x"}}'}
            owner = {"tenant": job.tenant} if job.tenant else {}
            meta = {
                "status": "SUCCESS" if ends == "succeeds" else "FAILURE",
                "result": result,
                "task_id": job.id,
                "lanefleet": {**about, "created_ms": lease.created_ms, "started_ms": 5, **owner},
            }
            outcomes.append(
                FinishedJob(
                    lease.tag,
                    job.id,
                    json.dumps(meta, separators=(",", ":")).encode(),
                    failure=FAILURES[ends],
                    tenant=job.tenant,
                    has_blob="1" if job.blob else "",
                    flight=f"{LANE}:{job.cache.digest}",
                    reuse_ms=10_000,
                )
            )
            del self.leases[lease.tag]
        if outcomes:
            assert self.workers[0].finish(outcomes, TTL_SECONDS) == []
            assert self.workers[0].finish(outcomes, TTL_SECONDS) == list(range(len(outcomes)))

    @rule(numbers=picks)
    def release(self, numbers: list[int]) -> None:
        chosen = self._chosen(numbers)
        handed = [ReleasedJob(lease.tag, job.id, lease.attempt == 1) for lease, job in chosen]
        assert self.workers[0].release(handed) == len(chosen)
        for lease, _ in chosen:
            del self.leases[lease.tag]

    @rule(numbers=picks)
    def let_leases_lapse(self, numbers: list[int]) -> None:
        chosen = self._chosen(numbers)
        for lease, _ in chosen:
            del self.leases[lease.tag]
            self.client.zadd(KEYS.index, {lease.tag: 1}, xx=True)
        assert self.workers[1].reap()[0] == len(chosen)

    @rule(numbers=picks)
    def start(self, numbers: list[int]) -> None:
        for lease, job in self._chosen(numbers):
            if lease.attempt > 1 and self.workers[0].start(lease.tag, job.id, TTL_SECONDS) == -1:
                del self.leases[lease.tag]

    @rule(numbers=picks)
    def bury(self, numbers: list[int]) -> None:
        chosen = self._chosen(numbers)
        letters = [
            DeadLetter(lease.tag, job.id, "attempts_exhausted", "no", lease.attempt, b"")
            for lease, job in chosen
        ]
        assert self.workers[0].bury(letters, TTL_SECONDS) == len(chosen)
        for lease, _ in chosen:
            del self.leases[lease.tag]

    @rule(numbers=picks)
    def retry(self, numbers: list[int]) -> None:
        chosen = self._chosen(numbers)
        parked = [
            RetryJob(lease.tag, job.id, delay_ms=36_000_000, error="it broke")
            for lease, job in chosen
        ]
        assert self.workers[0].retry(parked) == len(chosen)
        for lease, _ in chosen:
            del self.leases[lease.tag]

    @rule()
    def all_succeed_and_the_same_is_sent_again(self) -> None:
        """What is asked for within the next seconds has its result already."""
        self.reserve(0, 100)
        self.finish(list(range(100)), "succeeds")
        self.submit([0, 1, 2], 0, "none", blob=False)

    @rule()
    def an_urgent_one_overtakes(self) -> None:
        """It runs before the message of the leader that it overtook is met."""
        self.submit([0, 0], 3, "none", blob=False)
        self.submit([0], 0, "none", blob=False)
        self.reserve(0, 1)
        self.finish(list(range(100)), "succeeds")

    @rule(how=st.sampled_from(["fails", "buried", "canceled", "lost"]))
    def a_leader_of_several_ends(self, how: str) -> None:
        """One of its followers leads the others from now on."""
        leader = self._with_an_input_of_its_own([0, 0, 0], "none")
        if how == "lost":
            self.purge_and_reconcile()
            return
        self.reserve(0, 100)
        held = [job.id for _, job in self.leases.values()]
        if leader not in held:
            return  # a tenant's turn, or the messages that wait beside, came first
        match how:
            case "fails":
                self.finish([held.index(leader)], "fails")
            case "buried":
                self.bury([held.index(leader)])
            case "canceled":
                self.cancel(len(self.jobs) - 1 - list(self.jobs).index(leader))

    @rule()
    def one_that_was_overtaken_expires(self) -> None:
        """Its message is still in its list, and it leads others."""
        name = self._with_an_input_of_its_own([3, 3, 3, 0], "deadline")
        if self.client.zscore(KEYS.followers, name) is not None:
            self._expire(name)

    @rule()
    def a_leader_of_several_is_lost(self) -> None:
        """By an eviction, say; a reaper frees those who follow it."""
        name = self._with_an_input_of_its_own([0, 0, 0, 0], "none")
        for message in self.client.lrange(LANE, 0, -1):
            if json.loads(message)["headers"]["id"] == name:
                self.client.lrem(LANE, 1, message)
        self.client.delete(job_key(name))
        del self.jobs[name]
        for _ in range(40):
            self.workers[0].reap()

    def _with_an_input_of_its_own(self, bands: list[int], limit: str) -> str:
        """Submit jobs of a new input; returns the first."""
        number, first = 100 + next(self.serial), len(self.jobs)
        for band in bands:
            self.submit([number], band, limit, blob=False)
        return list(self.jobs)[first]

    @rule()
    def who_was_overtaken_is_cancelled(self) -> None:
        """A follower whose own message is still in its list."""
        self.submit([0], 3, "none", blob=False)
        self.submit([0], 0, "none", blob=False)
        names = list(self.jobs)
        for index, name in enumerate(names):
            words = (self.client.get(job_key(name)) or b"").decode().split(" ")
            if words[0] != "w":
                continue
            seat = self.client.hget(f"lf:followers:{words[6]}", name)
            if seat and seat.endswith(b" "):
                self.cancel(len(names) - 1 - index)
                return

    @rule()
    def all_that_is_held_is_tried_in_vain(self) -> None:
        """Suspects start until their attempts are spent."""
        self.let_leases_lapse(list(range(100)))
        self.reserve(0, 4)
        for _ in range(FLEET.max_attempts):
            self.start(list(range(100)))

    # -- time and strangers -----------------------------------------------

    @rule()
    def let_delays_pass(self) -> None:
        for member in self.client.zrange(KEYS.delayed, 0, -1):
            self.client.zadd(KEYS.delayed, {member: 1})
        self.workers[0].reap()

    @rule(number=st.integers(0, 99))
    def let_a_deadline_pass(self, number: int) -> None:
        """Of a follower: its limit is moved to now, wherever it is written."""
        ids = [name.decode() for name in self.client.zrange(KEYS.followers, 0, -1)]
        limited = [name for name in ids if self.jobs[name].expires_ms]
        if limited:
            self._expire(limited[number % len(limited)])

    def _expire(self, name: str) -> None:
        words = self.client.get(job_key(name)).decode().split(" ")  # type: ignore[union-attr]
        words[3] = "1"
        self.client.set(job_key(name), " ".join(words))
        self.client.zadd(KEYS.followers, {name: 1})
        hash_key = f"lf:followers:{words[6]}"
        band, deadline, message = self.client.hget(hash_key, name).split(b" ", 2)  # type: ignore[union-attr]
        if deadline != b"0":
            self.client.hset(hash_key, name, b" ".join((band, b"1", message)))
        self.workers[0].reap()
        assert self._record(name).state == "expired"  # type: ignore[union-attr]

    # -- operators and clean-ups ------------------------------------------

    @rule(limit=st.sampled_from([1, 2, 500]))
    def drop_the_lane(self, limit: int) -> None:
        """Nobody serves it any more, so nobody holds the leases that are left."""
        self.leases = {}
        taken = limit
        while taken == limit:
            call = (LANE, limit, TTL_SECONDS)
            taken, _ = self.scripts.run("drop_lane", KEYS.as_list(), call)
        if not self.foreign and not self.purged:
            assert not any(map(self._is_live, self.jobs)), "left after the drop"

    @rule()
    def purge_and_reconcile(self) -> None:
        """Another client deletes the lists; followers have their messages elsewhere."""
        for band in KEYS.bands:
            self.purged |= {
                json.loads(message)["headers"]["id"] for message in self.client.lrange(band, 0, -1)
            }
        self.client.delete(*KEYS.bands)
        self._reconcile()

    def _reconcile(self) -> None:
        """Until nothing is missing: what was overtaken and leads now may be."""
        call = (LANE, TTL_SECONDS, "1", *self.jobs)
        while self.scripts.run("reconcile", KEYS.as_list(), call):
            pass

    @rule()
    def forget_the_hints(self) -> None:
        for key in self.client.scan_iter("lf:flight:*"):
            self.client.delete(key)

    @rule(sent_again=st.booleans())
    def a_foreign_worker_takes_one(self, sent_again: bool) -> None:
        """A stock Celery worker pops it and stores its result; our record stays behind.

        Its followers go on without it once its input is sent again, or a reaper comes by.
        """
        message = self.client.lindex(LANE, -1)
        if message is None:
            return
        name = json.loads(message)["headers"]["id"]
        record = self.client.get(job_key(name))
        if not (record or b"").startswith(b"q"):
            return
        self.client.rpop(LANE)
        self.foreign.add(name)
        meta = json.dumps({"status": "SUCCESS", "result": {"run": self.jobs[name].input}})
        self.client.set(meta_key(name), meta, ex=TTL_SECONDS)
        if sent_again:
            self.submit([int(str(self.jobs[name].input).split()[-1])], 0, "none", blob=False)
        for _ in range(40):
            self.workers[0].reap()

    # -- after every step -------------------------------------------------

    def _record(self, name: str) -> JobRecord | None:
        return JobRecord.read(name, *self.client.mget(job_key(name), meta_key(name)))  # type: ignore[misc]

    @invariant()
    def every_job_is_in_one_place_and_settled_once(self) -> None:
        self._listen()
        waiting = Counter(
            json.loads(message)["headers"]["id"]
            for band in KEYS.bands
            for message in self.client.lrange(band, 0, -1)
        )
        waiting.update(
            json.loads(message)["headers"]["id"]
            for key in self.client.scan_iter(f"lf:lane:{LANE}:over:*")
            for message in self.client.lrange(key, 0, -1)
        )
        waiting.update(
            json.loads(member[2:])["headers"]["id"]
            for member in self.client.zrange(KEYS.delayed, 0, -1)
        )
        leased = {job.id for _, job in self.leases.values()}
        followers = {name.decode() for name in self.client.zrange(KEYS.followers, 0, -1)}
        for name, job in self.jobs.items():
            record = self.client.get(job_key(name)) or b""
            known = self._record(name)
            assert known is not None, name
            if known.state in TERMINAL:
                assert self.heard[name] == (name not in self.foreign), name
                assert name not in leased | followers, name
                assert not self.client.exists(f"lf:followers:{name}"), name
                if record and name not in self.foreign | self.purged:
                    assert record.startswith(b"x "), name
                    assert waiting[name] == 1 or self.client.ttl(job_key(name)) > 0, name
                self._check_result(job, known)
                continue
            assert self.heard[name] == 0, name
            words = record.decode().split(" ")
            assert (name in leased) == (words[0] == "r"), name
            assert (name in followers) == (words[0] == "w"), name
            if words[0] != "w":
                assert name in self.purged or waiting[name] + (name in leased) == 1, (name, words)
                continue
            leader = self._record(words[6])
            assert leader is not None, (name, words)
            assert leader.state not in TERMINAL, (name, words)
            seat = self.client.hget(f"lf:followers:{words[6]}", name)
            assert seat is not None, name
            assert name in self.purged or (waiting[name] == 1) == seat.endswith(b" "), name
            assert self.client.hexists(f"lf:followers:{words[6]}", ""), name

        if not self.foreign and not self.purged:
            live = Counter(job.tenant for name, job in self.jobs.items() if self._counts(name))
            counted = self.client.hgetall(f"lf:lane:{LANE}:tenants")
            del live[""]
            assert {name.decode(): int(n) for name, n in counted.items()} == dict(live)

    def _is_live(self, name: str) -> bool:
        record = self._record(name)
        return record is not None and record.state not in TERMINAL

    def _counts(self, name: str) -> bool:
        if self._is_live(name):
            return True
        # A canceled one counts until its message is dropped, and its record tells no tenant then.
        left = self.client.get(f"lf:job:{name}")
        return left is not None and left.startswith(b"x ") and b":" in left

    def _check_result(self, job: Job, known: JobRecord) -> None:
        meta = json.loads(self.client.get(meta_key(job.id)) or b"{}")
        if job.id in self.foreign:
            return
        assert known.tenant == job.tenant
        assert meta["task_id"] == job.id
        assert meta["lanefleet"]["created_ms"] > 1_700_000_000_000
        if known.state == "succeeded":
            assert meta["result"]["run"].startswith(job.input)
        dead = self.client.hexists(KEYS.letters, job.id)
        assert self.client.exists(blob_key(job.id)) == (dead and job.blob is not None), job.id

    def _listen(self) -> None:
        self.listener.ping()
        while (message := self.listener.get_message(timeout=20)) and message["type"] != "pong":
            if message["type"] == "pmessage":
                self.heard[message["channel"].decode().removeprefix(META_PREFIX)] += 1

    def teardown(self) -> None:
        """Run what is left: everything ends, and nothing of the flights stays."""
        for _ in range(40):
            self.let_delays_pass()
            self.reserve(0, 100)
            self.finish(list(range(100)), "succeeds")
            if self.purged:
                self._reconcile()
            if not (self.client.zcard(KEYS.followers) or self.client.llen(LANE)):
                break
        self.workers[0].reap()  # counts the tenants' jobs again, after strangers took some
        self.every_job_is_in_one_place_and_settled_once()
        assert {str(one.state) for one in map(self._record, self.jobs) if one} <= TERMINAL
        left = [key for key in self.client.scan_iter("lf:*") if self.client.ttl(key) < 0]
        ours = {KEYS.stats, KEYS.dead, KEYS.letters, *map(blob_key, self.jobs)}
        ours |= {job_key(name) for name in self.foreign}
        others = {key.decode() for key in left} - ours
        assert not {key for key in others if not key.startswith("lf:jobs:")}
        self.listener.close()


@pytest.fixture(scope="module")
def client(embedded_redis: RedisServer) -> Iterator[Redis]:
    with connect(embedded_redis.url, Settings()) as opened:
        yield opened


def _run(client: Redis, examples: int, steps: int, *, derandomize: bool) -> set[Move]:
    """The moves that were seen."""
    seen: set[Move] = set()
    with recorded_moves(client, seen):
        run_state_machine_as_test(
            lambda: FlightMachine(client),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                derandomize=derandomize,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    return seen


@pytest.mark.timeout(300)  # a failure is shrunk before it is shown
def test_identical_jobs_are_each_settled_once(client: Redis) -> None:
    seen = _run(client, 25, 25, derandomize=True)
    assert seen <= moves_in_diagram()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_identical_jobs_are_each_settled_once_over_10_000_steps(client: Redis) -> None:
    wanted = {move for move in moves_in_diagram() if is_of_a_flight(move)}
    seen: set[Move] = set()
    for _ in range(4):  # the rarest moves come once in some thousand steps
        seen |= _run(client, 250, 40, derandomize=False)
        assert seen <= moves_in_diagram()
        if wanted <= seen:
            return
    assert wanted <= seen

"""The Lua transitions against a small model, in random order over a real server.

The model is what DESIGN.md promises, in plain Python: lists, dicts and no
clock. Time is played by the test: a lease lapses, and a delayed job falls
due, when the test moves its score into the past. The scripts decide by the
server's own clock, so nothing else needs to wait.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kombu.utils.json import loads as kombu_loads
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from common.jobs.enqueue import enqueue_args
from common.jobs.job import Job
from common.jobs.message import build_message
from common.jobs.record import JobRecord
from common.redis.connect import connect
from common.redis.embedded_server import RedisServer
from common.redis.keys import BANDS, META_PREFIX, LaneKeys, blob_key, job_key, meta_key
from common.redis.scripts import Scripts
from common.settings import Settings
from tests.support.moves import Move, is_of_one_job, moves_in_diagram, recorded_moves
from tests.support.stack import wait_until
from worker.jobs import leases as lease_module
from worker.jobs.lease_calls import DeadLetter, FinishedJob, ReleasedJob, RetryJob
from worker.jobs.leases import LaneLeases, Lease, LeasePolicy
from worker.jobs.message import parse

LANE = "modelled"
KEYS = LaneKeys.of(LANE)
TTL_SECONDS = 10_000
FLEET = Settings(max_attempts=2, dead_max_count=6, lease_seconds=3600)
LEASES = LeasePolicy.of(FLEET)
MAX_DELIVERIES = FLEET.max_attempts * 10
LATER_MS = 36_000_000
JUNK = (b"{}", b"not json", b'{"id":', b"\x80\x04\xff", b'{"id": ""}')
TERMINAL = {"succeeded", "failed", "canceled", "expired"}


def plain_message(job_id: str) -> bytes:
    """What another Celery client sends: body first, and its own headers and body name an `id`."""
    headers = {"lang": "py", "task": "infer", "id": job_id, "x-trace": {"id": "evil"}}
    body = json.dumps([[], {"model": LANE, "input": '"id": "evil"', "id": "evil"}, {}])
    call = {"body": body, "content-type": "application/json", "headers": headers}
    return json.dumps({**call, "properties": {"id": "evil"}}).encode()


@dataclass(eq=False)
class Known:
    """What the model knows of one job."""

    id: str
    message: bytes
    band: int
    recorded: bool
    past_deadline: bool = False
    blob: bool = False
    state: str = "queued"
    attempts: int = 0
    deliveries: int = 0
    failed_before: bool = False
    settled_as: bytes | tuple[str, str] | None = None
    """The published result, or what a script's own result says: status and exception."""

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL


@dataclass(eq=False)
class Held:
    """A lease as the model sees it."""

    job: Known
    worker: int
    suspect: bool
    lapsed: int | None = None


class Model:
    """Where every job is. A band's list starts with the job that is served next."""

    def __init__(self) -> None:
        self.jobs: dict[str, Known] = {}
        self.bands: list[list[Known | bytes]] = [[], [], [], []]
        self.leases: dict[bytes, Held] = {}
        self.stale: list[tuple[bytes, Known]] = []
        self.delayed: dict[Known, int | None] = {}
        self.dead: dict[str, bytes] = {}
        self.junk: Counter[bytes] = Counter()
        self.stats: Counter[str] = Counter()
        self.published: list[str] = []

    def settle(self, job: Known, state: str, result: bytes | tuple[str, str]) -> None:
        assert not job.terminal, "a settled job was settled again"
        job.state, job.settled_as = state, result
        job.blob = job.blob and job.id in self.dead
        self.published.append(job.id)

    def bury(self, job: Known, result: bytes | tuple[str, str]) -> None:
        self.dead[job.id] = job.message
        self.stats["dead"] += 1
        self.settle(job, "failed", result)

    def drop(self, tag: bytes) -> Known:
        job = self.leases.pop(tag).job
        self.stale.append((tag, job))
        return job

    def to_front(self, job: Known) -> None:
        if not job.terminal:
            job.state = "queued"
        self.bands[job.band].insert(0, job)

    def reap(self) -> tuple[int, int]:
        lapsed = [tag for tag, held in self.leases.items() if held.lapsed is not None]
        # Earliest first; those that lapsed together, in the order they were reserved in.
        lapsed.sort(key=lambda tag: self.leases[tag].lapsed or 0)
        for tag in reversed(lapsed):
            self.to_front(self.drop(tag))
        self.stats["reaped"] += len(lapsed)
        return len(lapsed), self.promote(200)

    def promote(self, limit: int) -> int:
        due = sorted((at, job.id) for job, at in self.delayed.items() if at is not None)[:limit]
        for _, job_id in reversed(due):
            job = self.jobs[job_id]
            del self.delayed[job]
            self.to_front(job)
        return len(due)

    def reserve(self, wanted: int, share: int, turn: int) -> Iterator[tuple[int, Known]]:
        """The attempt's number and the job, for each that this reservation must return."""
        self.promote(wanted)
        share = min(share, sum(map(len, self.bands[1:])))
        popped = self._pop(0, wanted - share)
        for step in range(3):
            got = self._pop(1 + (turn + step) % 3, share)
            share -= len(got)
            popped += got
        for band in (1, 2, 3):
            popped += self._pop(band, wanted - len(popped))
        return filter(None, map(self._take, popped))

    def _pop(self, band: int, wanted: int) -> list[Known | bytes]:
        taken = self.bands[band][:wanted]
        del self.bands[band][: len(taken)]
        return taken

    def _take(self, job: Known | bytes) -> tuple[int, Known] | None:
        if isinstance(job, bytes):
            self.junk[job] += 1
            self.stats["dead"] += 1
            return None
        if job.terminal:
            return None
        if job.past_deadline:
            self.stats["expired"] += 1
            self.settle(job, "expired", ("REVOKED", "TaskRevokedError"))
            return None
        if job.attempts:
            job.deliveries += 1
            if job.deliveries > MAX_DELIVERIES:
                self.bury(job, ("FAILURE", "AttemptsExhausted"))
                return None
        job.state, job.recorded = "running", True
        number = job.attempts + 1
        job.attempts = max(job.attempts, 1)
        return number, job


picks = st.lists(st.integers(0, 99), min_size=2, max_size=8)
any_band = st.sampled_from([0, 0, 0, 0, 1, 2, 3])
while_leased = precondition(lambda machine: machine.model.leases)
while_suspected = precondition(
    lambda machine: any(held.suspect for held in machine.model.leases.values())
)
while_delayed = precondition(lambda machine: machine.model.delayed)
while_dead = precondition(lambda machine: machine.model.dead or machine.model.junk)


class LeaseMachine(RuleBasedStateMachine):
    """Two workers, a reaper and clients; each rule is one call, each check one round trip."""

    def __init__(self, client: Redis) -> None:
        super().__init__()
        client.flushdb()
        self.client = client
        self.scripts = Scripts(client)
        self.model = Model()
        with mock.patch.object(lease_module.secrets, "token_hex", side_effect=["aaaa", "bbbb"]):
            self.workers = [LaneLeases(client, LANE, name, LEASES) for name in ("one", "two")]
        self.calls = [count(1), count(1)]
        self.unanswered: list[list[bytes]] = [[], []]
        self.serial = count(1)
        self.past = count(1)
        self.listener = client.pubsub()
        self.listener.psubscribe(f"{META_PREFIX}*")
        self.listener.get_message(timeout=20)

    def teardown(self) -> None:
        self.listener.close()

    # -- picking ----------------------------------------------------------

    def _held(self, numbers: list[int], suits: Callable[[Held], bool]) -> list[bytes]:
        tags = [tag for tag, held in self.model.leases.items() if suits(held)]
        return list(dict.fromkeys(tags[number % len(tags)] for number in numbers if tags))

    def _any(self, numbers: list[int]) -> list[tuple[bytes, Known]]:
        """Leases of any time: those that still count, and those that are gone."""
        tags = [(tag, held.job) for tag, held in self.model.leases.items()]
        tags += self.model.stale[-len(tags) - 2 :]
        return list(dict.fromkeys(tags[number % len(tags)] for number in numbers if tags))

    @initialize(bands=st.lists(any_band, min_size=6, max_size=10))
    def begin_with_jobs_in_hand(self, bands: list[int]) -> None:
        """Also a stranger's, and some that were tried before."""
        self.send_from_a_plain_celery_client(0)
        self.enqueue(bands, late=False, blob=True)
        self.reserve(0, 3)
        self.reserve(1, 2)
        self.let_a_worker_die(1)
        self.reserve(1, 2)

    # -- clients ----------------------------------------------------------

    @rule(
        bands=st.lists(any_band, min_size=1, max_size=6),
        late=st.sampled_from([False, False, False, True]),
        blob=st.booleans(),
    )
    def enqueue(self, bands: list[int], late: bool, blob: bool) -> None:
        jobs = [self._new_job(BANDS[band], late, blob) for band in bands]
        depth = self._backlog()
        args = enqueue_args(jobs, 1_000_000)
        assert self.scripts.run("enqueue", (), args) == list(range(depth, depth + len(jobs)))
        for job, band in zip(jobs, bands, strict=True):
            known = Known(job.id, build_message(job), band, True, late, blob)
            self.model.jobs[job.id] = known
            self.model.bands[band].append(known)
        self.scripts.run("enqueue", (), args)  # sent again, as after a lost answer

    @rule(blob=st.booleans())
    def enqueue_to_a_full_lane(self, blob: bool) -> None:
        args = enqueue_args([self._new_job(0, False, blob)], self._backlog())
        assert self.scripts.run("enqueue", (), args) == [-1]

    @rule(band=st.integers(0, 3))
    def send_from_a_plain_celery_client(self, band: int) -> None:
        job_id = f"plain-{next(self.serial):04}"
        job = Known(job_id, plain_message(job_id), band, recorded=False)
        self.client.lpush(KEYS.bands[band], job.message)
        self.model.jobs[job_id] = job
        self.model.bands[band].append(job)

    @rule(band=st.integers(0, 3), junk=st.sampled_from(JUNK))
    def send_junk(self, band: int, junk: bytes) -> None:
        self.client.lpush(KEYS.bands[band], junk)
        self.model.bands[band].append(junk)

    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        names = ["unknown", *self.model.jobs]
        name = names[-1 - number % len(names)]
        job = self.model.jobs.get(name)
        if job and job.recorded and not job.terminal:
            for tag in [tag for tag, held in self.model.leases.items() if held.job is job]:
                self.model.drop(tag)
            self.model.settle(job, "canceled", ("REVOKED", "TaskRevokedError"))
            self.model.stats["canceled"] += 1
        state = self.scripts.run("cancel", (), (name, TTL_SECONDS, "canceled"))
        assert state.decode() == (job.state if job and job.recorded else "")

    # -- workers ----------------------------------------------------------

    @rule(worker=st.integers(0, 1), wanted=st.sampled_from([0, 1, 2, 3, 5, 8, 33]))
    def reserve(self, worker: int, wanted: int) -> None:
        expected = self._expect(worker, wanted)
        reservation = self.workers[worker].reserve(wanted, TTL_SECONDS)
        assert reservation.left_waiting == sum(map(len, self.model.bands))
        self._hold(worker, reservation.leases, expected)

    @rule(worker=st.integers(0, 1), wanted=st.sampled_from([2, 5, 8]))
    def reserve_and_lose_the_answer(self, worker: int, wanted: int) -> None:
        """What was leased comes back with this worker's next reservation."""
        expected = self._expect(worker, wanted)
        reply: list[Any] = []
        scripts = self.workers[worker]._scripts

        send_as_ever = scripts.send

        def send(name: str, *arguments: Any) -> Any:
            sent = send_as_ever(name, *arguments)
            if name != "reserve":
                return sent
            reply.extend(sent.result()[2:])
            raise RedisConnectionError("the answer got lost")

        with mock.patch.object(scripts, "send", send), pytest.raises(RedisConnectionError):
            self.workers[worker].reserve(wanted, TTL_SECONDS)
        leases = [Lease(*reply[first : first + 4]) for first in range(0, len(reply), 4)]
        self._hold(worker, leases, expected)
        self.unanswered[worker] = [lease.tag for lease in leases]

    def _expect(self, worker: int, wanted: int) -> list[tuple[int, Known]]:
        """What this reservation must bring, after the last unanswered one was handed back."""
        for tag in reversed(self.unanswered[worker]):
            if held := self.model.leases.get(tag):
                held.job.attempts -= not held.suspect
                self.model.to_front(self.model.drop(tag))
        self.unanswered[worker] = []
        call = next(self.calls[worker])
        share = call * wanted // 16 - (call - 1) * wanted // 16
        return list(self.model.reserve(wanted, share, call % 3))

    def _hold(self, worker: int, leases: list[Lease], expected: list[tuple[int, Known]]) -> None:
        assert [(one.attempt, one.message) for one in leases] == [
            (attempt, job.message) for attempt, job in expected
        ]
        for lease, (attempt, job) in zip(leases, expected, strict=True):
            assert lease.tag not in self.model.leases
            assert lease.tag not in dict(self.model.stale)
            assert parse(lease, LANE, 0.0).job_id == job.id
            self.model.leases[lease.tag] = Held(job, worker, attempt > 1)

    @while_leased
    @rule(numbers=picks, with_stale=st.booleans())
    def start(self, numbers: list[int], with_stale: bool) -> None:
        tag, job = next(
            (
                (tag, self.model.leases[tag].job)
                for tag in self._held(numbers, lambda held: held.suspect)
            ),
            self.model.stale[-1] if self.model.stale and with_stale else (b"none", None),
        )
        expected = 0
        if job and tag in self.model.leases:
            job.attempts += 1
            expected = job.attempts
            if job.attempts > FLEET.max_attempts:
                job.attempts, expected = job.attempts - 1, -1
                self.model.bury(self.model.drop(tag), ("FAILURE", "AttemptsExhausted"))
        job_id = job.id if job else "none"
        assert self.workers[0].start(tag, job_id, TTL_SECONDS) == expected

    @while_suspected
    @rule(numbers=picks)
    def start_once_too_often(self, numbers: list[int]) -> None:
        for _ in range(FLEET.max_attempts):
            self.start(numbers, with_stale=False)

    @while_leased
    @rule(numbers=picks)
    def renew(self, numbers: list[int]) -> None:
        chosen = self._any(numbers)
        lost = self.workers[0].renew([tag for tag, _ in chosen])
        assert lost == [tag for tag, _ in chosen if tag not in self.model.leases]
        for tag, _ in chosen:
            if tag in self.model.leases:
                self.model.leases[tag].lapsed = None

    @while_leased
    @rule(numbers=picks, fails=st.booleans())
    def finish(self, numbers: list[int], fails: bool) -> None:
        chosen = self._any(numbers)
        state = "failed" if fails else "succeeded"
        outcomes, fenced = [], []
        for position, (tag, job) in enumerate(chosen):
            status = b"FAILURE" if fails else b"SUCCESS"
            meta = b'{"status":"%s","by":"%d"}' % (status, next(self.serial))
            failure: Literal["", "other"] = "other" if fails else ""
            outcomes.append(
                FinishedJob(tag, job.id, meta, failure=failure, has_blob="1" if job.blob else "")
            )
            if tag in self.model.leases:
                self.model.settle(self.model.drop(tag), state, meta)
                self.model.stats[state] += 1
            else:
                fenced.append(position)
                self.model.stats["fenced"] += 1
        assert self.workers[0].finish(outcomes, TTL_SECONDS) == fenced

    @while_leased
    @rule(numbers=picks)
    def release(self, numbers: list[int]) -> None:
        chosen = self._any(numbers)
        suspects = {tag for tag, held in self.model.leases.items() if held.suspect}
        handed = [ReleasedJob(tag, job.id, tag not in suspects) for tag, job in chosen]
        ours = [tag for tag, _ in chosen if tag in self.model.leases]
        for tag in reversed(ours):
            job = self.model.drop(tag)
            job.attempts -= tag not in suspects
            job.deliveries -= tag in suspects
            self.model.to_front(job)
        self.model.stats["released"] += len(ours)
        assert self.workers[0].release(handed) == len(ours)

    @while_leased
    @rule(numbers=picks, why=st.sampled_from(["failed", "early", "unread"]))
    def retry(self, numbers: list[int], why: str) -> None:
        """A failed attempt keeps its count; an ETA not yet reached gives it back.

        An input that could not be read gives a delivery back as well.
        """
        parked, ours, failed = [], 0, why == "failed"
        for tag, job in self._any(numbers):
            held = self.model.leases.get(tag)
            uncount = bool(held and not held.suspect and not failed)
            parked.append(
                RetryJob(
                    tag,
                    job.id,
                    delay_ms=LATER_MS,
                    error="it broke" if failed else "",
                    unread="1" if why == "unread" else "",
                    uncount="1" if uncount else "",
                )
            )
            if held:
                self.model.drop(tag)
                job.state = "queued"
                job.attempts -= uncount
                self.model.delayed[job] = None
                job.deliveries -= why == "unread" and held.suspect
                self.model.stats["retried"] += why != "early"
                if failed and not job.failed_before:
                    job.failed_before = True
                    self.model.stats["model_failed"] += 1
                ours += 1
        assert self.workers[0].retry(parked) == ours

    @while_leased
    @rule(numbers=picks)
    def bury(self, numbers: list[int]) -> None:
        chosen = self._any(numbers)
        meta = b'{"status":"FAILURE"}'
        letters = [
            DeadLetter(tag, job.id, "attempts_exhausted", 'said "no"\n', job.attempts, meta)
            for tag, job in chosen
        ]
        ours = [tag for tag, _ in chosen if tag in self.model.leases]
        for tag in ours:
            job = self.model.drop(tag)
            self.model.stats["model_failed"] += job.attempts == 1
            self.model.bury(job, meta)
        assert self.workers[0].bury(letters, TTL_SECONDS) == len(ours)

    # -- operators --------------------------------------------------------

    @while_dead
    @rule(numbers=picks)
    def give_the_dead_a_new_life(self, numbers: list[int]) -> None:
        chosen = self._dead(numbers)
        revived = [self.model.jobs[name] for name in chosen if name in self.model.dead]
        for job in revived:
            del self.model.dead[job.id]
            job.state, job.settled_as, job.past_deadline = "queued", None, False
            job.attempts = job.deliveries = 0
            job.failed_before = False
            self.model.bands[job.band].append(job)
        assert self.scripts.run("dead_retry", KEYS.as_list(), (8, "", 0, 1, 0, *chosen))[1] == len(
            revived
        )

    @while_dead
    @rule(numbers=picks)
    def purge_the_dead(self, numbers: list[int]) -> None:
        chosen = self._dead(numbers)
        for name in chosen:
            if name in self.model.dead:
                del self.model.dead[name]
                self.model.jobs[name].blob = False
            else:
                letter = self.client.hget(KEYS.letters, name)
                self.model.junk[letter.split(b"\n", 1)[1]] -= 1  # type: ignore[union-attr]
        if chosen:
            assert self.scripts.run("dead_purge", KEYS.as_list(), chosen) == len(chosen)

    @rule(limit=st.sampled_from([1, 3, 500]))
    def drop_the_lane(self, limit: int) -> None:
        """It is served no more; nobody holds the leases that are left."""
        left: list[Known | bytes] = [one for band in self.model.bands for one in band]
        parked = {_member(job): job for job in self.model.delayed}
        left += [parked[member] for member in self.client.zrange(KEYS.delayed, 0, -1)]
        tags = self.client.zrange(KEYS.index, 0, -1)
        left += [self.model.drop(tag) for tag in tags]
        self.model.bands, self.model.delayed = [[], [], [], []], {}
        for first in range(0, len(left) + 1, limit):
            taken = left[first : first + limit]
            jobs = [one for one in taken if isinstance(one, Known) and not one.terminal]
            for job in jobs:
                job.recorded = True
                self.model.settle(job, "canceled", ("REVOKED", "TaskRevokedError"))
            self.model.stats["canceled"] += len(jobs)
            call = (LANE, limit, TTL_SECONDS)
            assert self.scripts.run("drop_lane", KEYS.as_list(), call) == [len(taken), len(jobs)]

    @rule(by=st.sampled_from(["reserve", "drop", "reconcile", "expire"]))
    def what_was_cancelled_is_met(self, by: str) -> None:
        """In its list, or after the list is gone."""
        names = ["unknown", *self.model.jobs]
        waiting = [one.id for one in self._waiting() if one.recorded and not one.terminal]
        for name in waiting[:2]:
            self.cancel(len(names) - 1 - names.index(name))
        match by:
            case "reserve":
                self.reserve(0, 33)
            case "drop":
                self.drop_the_lane(500)
            case "reconcile":
                self.purge_and_reconcile({0, 1, 2, 3})
            case "expire":
                for band in range(4):
                    self.expire(band)

    def _waiting(self) -> list[Known]:
        return [one for band in self.model.bands for one in band if isinstance(one, Known)]

    @rule(bands=st.sets(st.integers(0, 3), min_size=1))
    def purge_and_reconcile(self, bands: set[int]) -> None:
        """A client deletes lists; what only it knew of is lost without a trace."""
        model = self.model
        self.client.delete(*[KEYS.bands[band] for band in bands])
        gone = [one for band in bands for one in model.bands[band] if isinstance(one, Known)]
        for band in bands:
            model.bands[band] = []
        for job in gone:
            if not job.recorded:
                del model.jobs[job.id]
        lost = [job for job in model.jobs.values() if job in gone and not job.terminal]
        names = [job.id for job in lost]
        call = (LANE, TTL_SECONDS)
        for settle in ("", "1"):
            found = self.scripts.run(
                "reconcile", KEYS.as_list(), (*call, settle, "unknown", *model.jobs)
            )
            assert [name.decode() for name in found] == names
        for job in lost:
            model.settle(job, "failed", ("FAILURE", "MessageLost"))
        model.stats["lost"] += len(lost)

    @rule(band=st.integers(0, 3))
    def expire(self, band: int) -> None:
        """Nobody has reserved for a while."""
        left, late = [], []
        for job in self.model.bands[band]:
            if isinstance(job, Known) and not job.terminal and job.recorded and job.past_deadline:
                late.append(job)
            elif isinstance(job, bytes) or not job.terminal:
                left.append(job)
        call = (LANE, TTL_SECONDS, band + 1, "", 0, 1000)
        found = self.scripts.run("expire", KEYS.as_list(), call)
        assert found == [-1, len(late), 0]
        self.model.bands[band] = left
        for job in late:
            self.model.settle(job, "expired", ("REVOKED", "TaskRevokedError"))
        self.model.stats["expired"] += len(late)

    # -- time -------------------------------------------------------------

    @while_leased
    @rule(numbers=picks)
    def let_leases_lapse(self, numbers: list[int]) -> None:
        tags = self._held(numbers, lambda held: True)
        for tag in tags:
            self.model.leases[tag].lapsed = next(self.past)
        self._move(KEYS.index, {tag: self.model.leases[tag].lapsed for tag in tags})

    @while_leased
    @rule(worker=st.integers(0, 1))
    def let_a_worker_die(self, worker: int) -> None:
        """Its leases, renewed together, lapse together; somebody's reaper comes by."""
        tags = self._held(list(range(100)), lambda held: held.worker == worker)
        at = next(self.past)
        for tag in tags:
            self.model.leases[tag].lapsed = at
        self._move(KEYS.index, dict.fromkeys(tags, at))
        self.reap()

    @while_delayed
    @rule(numbers=picks)
    def let_delays_pass(self, numbers: list[int]) -> None:
        jobs = list(self.model.delayed)
        chosen = dict.fromkeys(jobs[number % len(jobs)] for number in numbers if jobs)
        for job in chosen:
            self.model.delayed[job] = next(self.past)
        self._move(KEYS.delayed, {_member(job): self.model.delayed[job] for job in chosen})

    @while_suspected
    @rule(worker=st.integers(0, 1), short_of_limit=st.integers(0, 1))
    def let_a_worker_die_once_too_often(self, worker: int, short_of_limit: int) -> None:
        """Its suspects were redelivered as often as allowed, or once less."""
        held_here = [held for held in self.model.leases.values() if held.worker == worker]
        for job in [held.job for held in held_here if held.suspect]:
            job.deliveries = MAX_DELIVERIES - short_of_limit
            words = self.client.get(job_key(job.id)).split(b" ")  # type: ignore[union-attr]
            words[5] = b"%d" % job.deliveries
            self.client.set(job_key(job.id), b" ".join(words))
        self.let_a_worker_die(worker)
        self.reserve(worker, 8)

    @rule()
    def reap(self) -> None:
        expected = self.model.reap()
        *found, next_due = self.workers[1].reap()
        assert tuple(found) == expected
        assert (next_due > 0) == bool(self.model.delayed)

    # -- after every step -------------------------------------------------

    @invariant()
    def server_and_model_agree(self) -> None:
        jobs = list(self.model.jobs.values())
        pipe = self.client.pipeline(transaction=False)
        for band in KEYS.bands:
            pipe.lrange(band, 0, -1)
        pipe.hgetall(KEYS.unacked)
        for name in (KEYS.index, KEYS.delayed):
            pipe.zrange(name, 0, -1, withscores=True)
        pipe.zrange(KEYS.dead, 0, -1)
        pipe.hgetall(KEYS.letters)
        pipe.hgetall(KEYS.stats)
        pipe.exists(job_key("evil"), job_key(""), job_key("none"), meta_key("evil"))
        pipe.mget([meta_key(job.id) for job in jobs] + ["-"])
        pipe.mget([blob_key(job.id) for job in jobs] + ["-"])
        for job in jobs:
            pipe.get(job_key(job.id))
            pipe.ttl(job_key(job.id))
            pipe.ttl(meta_key(job.id))
        replies = iter(pipe.execute())
        bands = [next(replies)[::-1] for _ in BANDS]
        unacked, index, delayed = next(replies), dict(next(replies)), dict(next(replies))
        self._check_places(bands, unacked, index, delayed)
        self._check_dead(next(replies), next(replies))
        stats = {name.decode(): int(value) for name, value in next(replies).items()}
        assert stats == dict(+self.model.stats)
        assert next(replies) == 0, "a record of nobody's was made"
        metas, blobs = next(replies), next(replies)
        for job, meta, blob in zip(jobs, metas, blobs, strict=False):
            self._check_job(job, meta, blob, *islice(replies, 3))
        self._check_published(dict(zip(self.model.jobs, metas, strict=False)))

    def _check_places(self, bands: Any, unacked: Any, index: Any, delayed: Any) -> None:
        model = self.model
        assert bands == [
            [job if isinstance(job, bytes) else job.message for job in band] for band in model.bands
        ]
        assert unacked.keys() == index.keys() == model.leases.keys()
        for tag, held in model.leases.items():
            assert unacked[tag] == b'[%s,"","%s"]' % (held.job.message, LANE.encode())
            message, exchange, routing_key = kombu_loads(unacked[tag].decode())
            assert (message["headers"]["id"], exchange, routing_key) == (held.job.id, "", LANE)
            assert held.lapsed == (index[tag] if index[tag] < 1e9 else None)
        assert {member: at if at < 1e9 else None for member, at in delayed.items()} == {
            _member(job): at for job, at in model.delayed.items()
        }
        places = Counter(job for band in model.bands for job in band if isinstance(job, Known))
        places.update(held.job for held in model.leases.values())
        places.update(model.delayed.keys())
        for job in model.jobs.values():
            # What was cancelled while it waited stays in its list until it is reserved.
            assert places[job] == 1 or (job.terminal and places[job] == 0), job

    def _check_dead(self, dead: list[bytes], letters: dict[bytes, bytes]) -> None:
        model = self.model
        assert set(dead) == letters.keys()
        assert len(dead) == min(FLEET.dead_max_count, len(model.dead) + model.junk.total())
        junk: Counter[bytes] = Counter()
        for name, letter in letters.items():
            about, message = letter.split(b"\n", 1)
            assert json.loads(about)["id"] == name.decode()
            if name.startswith(b"unreadable-"):
                junk[message] += 1
            else:
                assert message == model.dead[name.decode()]
        assert junk <= model.junk
        model.junk = junk
        for name in [name for name in model.dead if name.encode() not in letters]:
            del model.dead[name]  # the list is full; the oldest left, and their inputs with them
            model.jobs[name].blob = False

    def _check_job(
        self,
        job: Known,
        meta: bytes | None,
        blob: bytes | None,
        record: bytes | None,
        ttl: int,
        meta_ttl: int,
    ) -> None:
        assert (blob is not None) == job.blob, job
        known = JobRecord.read(job.id, record, meta)
        assert bool(known) == job.recorded, job
        if not known:
            return
        if not job.terminal:
            words = (record or b"").split(b" ") + [b"0"] * 7
            assert (known.state, known.attempts, known.lane) == (job.state, job.attempts, LANE), job
            assert int(words[5]) == job.deliveries, job
            held = self.model.leases.get(words[6])
            assert (held is not None and held.job is job) == (job.state == "running"), job
            assert (ttl, meta) == (-1, None), job
            return
        assert TTL_SECONDS - 1000 < meta_ttl <= TTL_SECONDS
        if job.state != "canceled":
            assert record is None, job
        elif record is not None:
            assert record.startswith(b"x "), job
            assert (ttl == -1) == self._still_listed(job), job
        if isinstance(job.settled_as, bytes):
            assert meta == job.settled_as
        else:
            result = json.loads(meta or b"")
            assert (known.state, known.lane, bool(known.reason)) == (job.state, LANE, True)
            assert (result["status"], result["result"]["exc_type"]) == job.settled_as
            assert result["task_id"] == job.id

    def _check_published(self, metas: dict[str, bytes | None]) -> None:
        heard = []
        self.listener.ping()
        while (message := self.listener.get_message(timeout=20)) and message["type"] != "pong":
            if message["type"] == "pmessage":
                job_id = message["channel"].decode().removeprefix(META_PREFIX)
                heard.append(job_id)
                assert message["data"] == metas[job_id]
        assert heard == self.model.published
        self.model.published.clear()

    # -- small things -----------------------------------------------------

    def _dead(self, numbers: list[int]) -> list[str]:
        names = sorted(name.decode() for name in self.client.zrange(KEYS.dead, 0, -1))
        return list(dict.fromkeys(names[number % len(names)] for number in numbers if names))

    def _still_listed(self, job: Known) -> bool:
        return job in self.model.delayed or job in self.model.bands[job.band]

    def _new_job(self, priority: int, late: bool, blob: bool) -> Job:
        number = next(self.serial)
        return Job(
            LANE,
            f'text {number} with "id": "evil" in it',
            id=f"job-{number:04}",
            priority=priority,
            deadline_ms=1 if late else None,
            blob=b"large" if blob else None,
        )

    def _backlog(self) -> int:
        model = self.model
        return sum(map(len, model.bands)) + len(model.leases) + len(model.delayed)

    def _move(self, key: str, scores: dict[bytes, int | None]) -> None:
        if scores:
            self.client.zadd(key, scores, xx=True)  # type: ignore[arg-type]


def _member(job: Known) -> bytes:
    return b"%d:%s" % (job.band + 1, job.message)


@pytest.fixture(scope="module")
def client(embedded_redis: RedisServer) -> Iterator[Redis]:
    with connect(embedded_redis.url, Settings()) as opened:
        yield opened


def _run(client: Redis, examples: int, steps: int, *, derandomize: bool) -> set[Move]:
    """The moves that were seen."""
    seen: set[Move] = set()
    with recorded_moves(client, seen):
        run_state_machine_as_test(
            lambda: LeaseMachine(client),
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
def test_the_scripts_keep_every_job_in_one_place(client: Redis) -> None:
    seen = _run(client, 40, 40, derandomize=True)
    assert seen <= moves_in_diagram()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_scripts_keep_every_job_in_one_place_for_10_000_steps(client: Redis) -> None:
    seen = _run(client, 200, 50, derandomize=False)
    assert seen <= moves_in_diagram()
    assert {move for move in moves_in_diagram() if is_of_one_job(move)} <= seen


def test_a_job_cancelled_while_queued_never_runs_even_when_its_record_would_be_gone(
    client: Redis,
) -> None:
    client.flushdb()
    lane, scripts = LaneLeases(client, LANE, "one", LEASES), Scripts(client)
    scripts.run("enqueue", (), enqueue_args([Job(LANE, "text", id="job")], 10))
    scripts.run("cancel", (), ("job", 1, "canceled"))
    wait_until(lambda: not client.exists(meta_key("job")), 20, "the end of the result's time")
    assert lane.reserve(1, TTL_SECONDS).leases == []
    assert 0 < client.ttl(job_key("job")) <= TTL_SECONDS


def test_an_unreadable_message_leaves_no_record_for_ever(client: Redis) -> None:
    client.flushdb()
    lane = LaneLeases(client, LANE, "one", LEASES)
    client.lpush(LANE, plain_message("foreign").replace(b'"infer"', b'"unknown.task"'))
    client.lpush(LANE, b'{"id": "torn", "bo')
    client.lpush(LANE, b'{"id": "torn too", bo}')
    for lease in lane.reserve(9, TTL_SECONDS).leases:
        read = parse(lease, LANE, 0.0)
        lane.bury([DeadLetter(lease.tag, read.job_id, "unreadable", "why", 1, b"")], TTL_SECONDS)
    records = list(client.scan_iter(job_key("*")))
    assert all(client.ttl(record) > 0 for record in records)
    assert client.zcard(KEYS.dead) == 3
    assert json.loads(client.get(meta_key("foreign")) or b"{}").get("status") == "FAILURE"


def test_a_message_sent_twice_is_leased_once(client: Redis) -> None:
    client.flushdb()
    client.lpush(LANE, *[plain_message("twin")] * 2)
    assert len(LaneLeases(client, LANE, "one", LEASES).reserve(8, TTL_SECONDS).leases) == 1
    assert client.llen(LANE) == 0


def test_an_id_sent_to_two_lanes_is_leased_once(client: Redis) -> None:
    client.flushdb()
    one, other = (LaneLeases(client, name, "one", LEASES) for name in (LANE, "other"))
    client.lpush(LANE, plain_message("twin"))
    client.lpush("other", plain_message("twin"))
    assert len(one.reserve(1, TTL_SECONDS).leases) == 1
    assert other.reserve(1, TTL_SECONDS).leases == []


def test_a_header_named_id_is_not_taken_for_the_job(client: Redis) -> None:
    client.flushdb()
    headers = {"x-trace": {"id": "evil"}, "task": "infer", "id": "mine"}
    client.lpush(LANE, json.dumps({"headers": headers, "properties": {}, "body": "[]"}))
    assert len(LaneLeases(client, LANE, "one", LEASES).reserve(1, TTL_SECONDS).leases) == 1
    assert list(client.scan_iter(job_key("*"))) == [job_key("mine").encode()]

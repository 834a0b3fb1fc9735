"""Leases of one lane: each transition is one Lua call for N jobs.

Tags are derived from a prefix that is unique per call, so the leases of a call whose reply
was lost cannot be mistaken for those of a later one. All times are the Redis server's.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import NamedTuple

from redis import Redis

from common.jobs.script_calls import CancelCall, ReapCall
from common.redis.keys import LaneKeys
from common.redis.scripts import Pending, Scripts
from common.settings import Settings
from worker.jobs.lease_calls import (
    BuryCall,
    DeadLetter,
    FinishCall,
    FinishedJob,
    LeadingJob,
    ReclaimCall,
    ReleasedJob,
    ReserveCall,
    RetryJob,
    SaidJob,
    StartCall,
)
from worker.jobs.worker_counts import WorkerCounts


class Lease(NamedTuple):
    """One message that this worker holds."""

    tag: bytes
    attempt: int
    origin: bytes
    """When the job was accepted, Unix milliseconds of the Redis server (0 when unknown), followed
    by `:` and its tenant where it has one."""
    message: bytes

    @property
    def created_ms(self) -> int:
        """When the job was accepted."""
        return int(self.origin.partition(b":")[0])

    @property
    def tenant(self) -> str:
        """The job's tenant; empty where it has none."""
        return self.origin.partition(b":")[2].decode()


# The class itself would be called through Python code: 0.1 us a job.
_new_lease = partial(tuple.__new__, Lease)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The reply of one call of `reserve`."""

    leases: list[Lease]
    left_waiting: int
    """Jobs of the lane that are not leased."""
    server_ms: int
    """The Redis server's clock at the call, Unix milliseconds."""


_WIDTHS = (3, 4, 6, 8, 9)
"""Numbers of arguments per job that may be sent: trailing ones that are empty for the whole batch
are left out. Most batches need three, or four with a tenant, or six where results are shared; an
argument costs Redis and the worker about 0.1 us each."""


_META = 2
"""Which of the arguments per job is the result."""
_FINISH_BYTES = 3 * 1024 * 1024
"""Most bytes of results that one script publishes, if it is more than one."""


class LeasePolicy(NamedTuple):
    """The settings for leases and attempts."""

    lease_ms: int
    max_attempts: int
    dead_max_count: int
    """Most dead letters of a lane."""
    result_ttl_seconds: int
    """The default for lanes whose model sets none."""
    tenant_window_jobs: int
    patience_ms: int
    """For how long no reaper may have come by before those who hold leases go first."""
    grace_ms: int
    """How long they get then."""
    reservation_bytes: int = 2 * 1024 * 1024
    """Most bytes of messages, and one message more, of one reservation."""
    max_message_bytes: int = 4 * 1024 * 1024

    @classmethod
    def of(cls, settings: Settings) -> LeasePolicy:
        """The policy of a process with these settings."""
        return cls(
            settings.lease_ms,
            settings.max_attempts,
            settings.dead_max_count,
            settings.result_ttl_seconds,
            settings.tenant_window_jobs,
            settings.patience_ms,
            settings.grace_ms,
            settings.reservation_bytes,
            settings.max_message_bytes,
        )


class LaneLeases:
    """Reserve, start, renew, finish, release, retry, bury, cancel and reap for one lane."""

    def __init__(
        self,
        client: Redis,
        lane: str,
        worker: str,
        policy: LeasePolicy,
        counts: WorkerCounts | None = None,
    ) -> None:
        """counts are those of the process."""
        self._counts = counts or WorkerCounts()
        self._scripts = Scripts(client)
        self._lane = lane
        self._worker = worker
        self._policy = policy
        self._keys = LaneKeys.of(lane).as_list()
        self._nonce = secrets.token_hex(6)
        self._calls = count(1)
        self._unanswered: tuple[str, int] | None = None
        self._asked: Pending | None = None

    def reserve(self, wanted: int, result_ttl: int) -> Reservation:
        """Lease up to `wanted` jobs: `ask`, then `receive` at once."""
        self.ask(wanted, result_ttl)
        return self.receive()

    def ask(self, wanted: int, result_ttl: int) -> None:
        """Send the request to lease up to `wanted` jobs; `receive` must follow.

        Where the reply to an earlier call was lost, the jobs that it leased are reclaimed first.
        """
        if self._unanswered is not None:
            self._reclaim(*self._unanswered)
        call = next(self._calls)
        prefix = f"{self._nonce}.{call:08x}."
        share = call * wanted // 16 - (call - 1) * wanted // 16
        policy = self._policy
        self._unanswered = (prefix, wanted)
        self._asked = self._scripts.send(
            "reserve",
            self._keys,
            ReserveCall(
                self._lane,
                wanted,
                policy.lease_ms,
                prefix,
                self._worker,
                result_ttl,
                policy.dead_max_count,
                policy.max_attempts * 10,
                share,
                call % 3,
                policy.tenant_window_jobs,
                policy.reservation_bytes,
                policy.max_message_bytes,
            ),
        )

    def receive(self) -> Reservation:
        """Receive the reply of the last `ask`."""
        assert self._asked is not None, "ask first"
        asked, self._asked = self._asked, None
        reply = asked.result()
        self._unanswered = None
        words = iter(reply[2:])
        leases = list(map(_new_lease, zip(words, words, words, words, strict=True)))
        self._counts.reserved += len(leases)
        return Reservation(leases, int(reply[0]), int(reply[1]))

    def _reclaim(self, prefix: str, wanted: int) -> None:
        self._scripts.run("reclaim", self._keys, ReclaimCall(self._lane, prefix, wanted))
        self._unanswered = None

    def start(self, tag: bytes, job_id: str, result_ttl: int) -> int:
        """Count a suspect's attempt; returns its number, 0 when fenced, -1 when the job is dead."""
        policy = self._policy
        call = StartCall(
            self._lane,
            tag,
            job_id,
            policy.max_attempts,
            result_ttl,
            policy.dead_max_count,
            self._worker,
        )
        number = int(self._scripts.run("start", self._keys, call))
        self._counts.dead_at_start += number < 0
        return number

    def renew(self, tags: Sequence[bytes]) -> list[bytes]:
        """Extend these leases; returns the tags that this worker no longer holds."""
        lost = list(self._scripts.run("renew", self._keys, (self._policy.lease_ms, *tags)))
        self._counts.renewed += len(tags) - len(lost)
        return lost

    def finish(self, jobs: Sequence[FinishedJob], result_ttl: int) -> list[int]:
        """Publish and acknowledge; returns the positions of the jobs that were fenced."""
        if not jobs:
            return []
        columns = list(zip(*jobs, strict=True))
        if sum(map(len, columns[_META])) > _FINISH_BYTES and len(jobs) > 1:
            half = len(jobs) // 2
            first, second = jobs[:half], jobs[half:]
            fenced = self.finish(first, result_ttl)
            return fenced + [half + at for at in self.finish(second, result_ttl)]
        words = next(width for width in _WIDTHS if not any(map(any, columns[width:])))
        args: list[str | bytes | int | float] = [*FinishCall(result_ttl, words)]
        args += chain.from_iterable(zip(*columns[:words], strict=True))
        return list(self._scripts.run("finish", self._keys, args))

    def lead(self, jobs: Iterable[LeadingJob]) -> int:
        """Keep what these lead to, until they are settled; how many were still held."""
        return int(self._scripts.run("lead", self._keys, list(chain.from_iterable(jobs))))

    def say(self, jobs: Iterable[SaidJob]) -> list[int]:
        """Write these to their streams; returns the positions of the jobs that were fenced."""
        return list(self._scripts.run("say", self._keys, list(chain.from_iterable(jobs))))

    def release(self, jobs: Iterable[ReleasedJob]) -> int:
        """Return these to the front of the lane; returns how many were still held."""
        args: list[str | bytes | int | float] = [self._lane]
        for tag, job_id, uncount in jobs:
            args += (tag, job_id, "1" if uncount else "")
        released = 0
        while len(args) > 1:
            count = int(self._scripts.run("release", self._keys, args))
            released += abs(count)
            if count >= 0:
                break
        return released

    def retry(self, jobs: Iterable[RetryJob]) -> int:
        """Delay these; returns how many were still held."""
        args: list[str | bytes | int | float] = [self._lane]
        for job in jobs:
            args += job
        if len(args) == 1:
            return 0
        retried = int(self._scripts.run("retry", self._keys, args))
        self._counts.retried += retried
        return retried

    def bury(self, letters: Iterable[DeadLetter], result_ttl: int) -> int:
        """Move these to the dead list and publish their failure; returns how many were held."""
        args: list[str | bytes | int | float] = [
            *BuryCall(self._lane, result_ttl, self._policy.dead_max_count, self._worker)
        ]
        for letter in letters:
            args += letter
        buried = int(self._scripts.run("bury", self._keys, args))
        self._counts.dead += buried
        return buried

    def cancel(self, job_id: str, result_ttl: int, state: str) -> str:
        """Settle a job as `canceled` or `expired`, whichever worker holds it. Returns its state
        afterwards, empty where the job is unknown.
        """
        call = CancelCall(job_id, result_ttl, state)
        return bytes(self._scripts.run("cancel", (), call)).decode()

    def reap(self, limit: int = 200, result_ttl: int | None = None) -> tuple[int, int, int]:
        """Return expired leases and due delayed jobs to the lane, settle followers past their
        deadline, free those without a leader, and recount the jobs of its tenants.

        Returns (reaped, promoted, ms until the next delayed job is due or -1).
        """
        policy = self._policy
        ttl = result_ttl or policy.result_ttl_seconds
        call = ReapCall(
            self._lane, limit, ttl, policy.tenant_window_jobs, policy.grace_ms, policy.patience_ms
        )
        reaped, promoted, next_due = self._scripts.run("reap", self._keys, call)
        self._counts.reaped += int(reaped)
        return int(reaped), int(promoted), int(next_due)

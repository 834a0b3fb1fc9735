"""Leases of one lane: each transition is one Lua call for N jobs.

Tags are minted from a nonce that is fresh for every call, so an answer that
got lost on the way cannot be mistaken for a later one. All times are the
Redis server's.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from redis import Redis

from common.redis.keys import LaneKeys
from common.redis.scripts import Pending, Scripts
from common.settings import Settings


class Lease(NamedTuple):
    """One message in our hands."""

    tag: bytes
    attempt: int
    origin: bytes
    """When the job was accepted, Unix milliseconds of the Redis server (0 when unknown), then
    `:` and its tenant where it has one."""
    message: bytes

    @property
    def created_ms(self) -> int:
        """When the job was accepted."""
        return int(self.origin.partition(b":")[0])

    @property
    def tenant(self) -> str:
        """Whose job it is; empty where it is nobody's."""
        return self.origin.partition(b":")[2].decode()


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one call of `reserve` brought."""

    leases: list[Lease]
    left_waiting: int
    """Jobs of the lane that still wait."""
    server_ms: int
    """The Redis server's clock at the call, Unix milliseconds."""


class Outcome(NamedTuple):
    """What `finish` publishes for one job, in the order in which the script takes it."""

    tag: bytes
    job_id: str
    meta: bytes
    """The result as Celery stores it: JSON."""
    kind: str = ""
    """`f` when it failed, `i` when the input was at fault, `m` when the model was, `b` when an
    input lies beside the message; then `:`, for how many ms its result serves those to come,
    and the flight. In front of it all `@`, its tenant and a space, where it has one."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What `bury` parks for one job; job_id is empty where none could be read."""

    tag: bytes
    job_id: str
    reason: str
    error: str
    attempts: int
    meta: bytes


class LaneLeases:
    """Reserve, start, renew, finish, release, retry, bury, cancel and reap for one lane."""

    def __init__(self, client: Redis, lane: str, worker: str, settings: Settings) -> None:
        self._scripts = Scripts(client)
        self._lane = lane
        self._worker = worker
        self._settings = settings
        self._keys = LaneKeys.of(lane).as_list()
        self._nonce = secrets.token_hex(6)
        self._calls = count(1)
        self._unanswered: tuple[str, int] | None = None
        self._asked: Pending | None = None

    def reserve(self, wanted: int, result_ttl: int) -> Reservation:
        """Lease up to `wanted` jobs: `ask` and `receive`, for who has nothing to do meanwhile."""
        self.ask(wanted, result_ttl)
        return self.receive()

    def ask(self, wanted: int, result_ttl: int) -> None:
        """Start to lease up to `wanted` jobs; `receive` must follow.

        Where the answer to an earlier call got lost on the way, what was leased
        then is handed back first.
        """
        if self._unanswered is not None:
            self._reclaim(*self._unanswered)
        call = next(self._calls)
        prefix = f"{self._nonce}.{call:08x}."
        share = call * wanted // 16 - (call - 1) * wanted // 16
        settings = self._settings
        self._unanswered = (prefix, wanted)
        self._asked = self._scripts.send(
            "reserve",
            self._keys,
            (
                self._lane,
                wanted,
                settings.lease_ms,
                prefix,
                self._worker,
                result_ttl,
                settings.dead_max_count,
                settings.max_attempts * 10,
                share,
                call % 3,
                settings.tenant_window_jobs,
            ),
        )

    def receive(self) -> Reservation:
        """What the last `ask` brought."""
        assert self._asked is not None, "ask first"
        asked, self._asked = self._asked, None
        reply = asked.result()
        self._unanswered = None
        words = iter(reply[2:])
        leases = list(map(Lease, words, words, words, words))
        return Reservation(leases, int(reply[0]), int(reply[1]))

    def _reclaim(self, prefix: str, wanted: int) -> None:
        self._scripts.run("reclaim", self._keys, (self._lane, prefix, wanted))
        self._unanswered = None

    def start(self, tag: bytes, job_id: str, result_ttl: int) -> int:
        """Count a suspect's attempt; its number, 0 when fenced, -1 when it is dead now."""
        settings = self._settings
        return int(
            self._scripts.run(
                "start",
                self._keys,
                (
                    self._lane,
                    tag,
                    job_id,
                    settings.max_attempts,
                    result_ttl,
                    settings.dead_max_count,
                    self._worker,
                ),
            )
        )

    def renew(self, tags: Sequence[bytes]) -> list[bytes]:
        """Extend these leases; returns the tags that are no longer ours."""
        return list(self._scripts.run("renew", self._keys, (self._settings.lease_ms, *tags)))

    def finish(self, outcomes: Iterable[Outcome], result_ttl: int) -> list[int]:
        """Publish and ack; returns the positions of those that were fenced."""
        args: list[str | bytes | int | float] = [result_ttl]
        for outcome in outcomes:
            args += outcome
        return list(self._scripts.run("finish", self._keys, args))

    def release(self, jobs: Iterable[tuple[bytes, str, bool]]) -> int:
        """Hand (tag, id, take the attempt back) to the lane's front; how many were ours."""
        args: list[str | bytes | int | float] = [self._lane]
        for tag, job_id, uncount in jobs:
            args += (tag, job_id, "1" if uncount else "")
        return int(self._scripts.run("release", self._keys, args)) if len(args) > 1 else 0

    def retry(self, jobs: Iterable[tuple[bytes, str, str, str, bool]]) -> int:
        """Park (tag, id, due, error, take the attempt back); due is Unix ms or `+ms`, or `~ms`
        where the store of inputs failed, which charges neither job nor model.
        """
        args: list[str | bytes | int | float] = [self._lane]
        for tag, job_id, due, error, uncount in jobs:
            args += (tag, job_id, due, error, "1" if uncount else "")
        return int(self._scripts.run("retry", self._keys, args)) if len(args) > 1 else 0

    def bury(self, letters: Sequence[DeadLetter], result_ttl: int) -> int:
        """Park these on the dead list and publish their failure; how many were ours."""
        settings = self._settings
        args: list[str | bytes | int | float] = [
            self._lane,
            result_ttl,
            settings.dead_max_count,
            self._worker,
        ]
        for letter in letters:
            args += (
                letter.tag,
                letter.job_id,
                letter.reason,
                letter.error,
                letter.attempts,
                letter.meta,
            )
        return int(self._scripts.run("bury", self._keys, args))

    def cancel(self, job_id: str, result_ttl: int, state: str) -> str:
        """Settle a job as `canceled` or `expired`, whoever has it; its state afterwards, empty
        where nobody knows it.
        """
        return bytes(self._scripts.run("cancel", (), (job_id, result_ttl, state))).decode()

    def reap(self, limit: int = 200, result_ttl: int | None = None) -> tuple[int, int, int]:
        """Return lapsed leases and due delayed jobs to the lane; look after followers, and count
        its tenants' jobs again.

        Returns (reaped, promoted, ms until the next delayed job is due or -1).
        """
        settings = self._settings
        ttl = result_ttl or settings.result_ttl_seconds
        args = (self._lane, limit, ttl, settings.tenant_window_jobs)
        reaped, promoted, next_due = self._scripts.run("reap", self._keys, args)
        return int(reaped), int(promoted), int(next_due)

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

from redis import Redis

from common.keys import LaneKeys
from common.scripts import Scripts
from common.settings import Settings


@dataclass(frozen=True, slots=True)
class Lease:
    """One message in our hands."""

    tag: bytes
    attempt: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one call of `reserve` brought."""

    leases: list[Lease]
    left_waiting: int
    """Jobs of the lane that still wait."""
    server_ms: int
    """The Redis server's clock at the call, Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `finish` publishes for one job."""

    tag: bytes
    job_id: str
    state: str
    meta: bytes
    """The result as Celery stores it: JSON."""
    reason: str = ""
    error: str = ""
    has_blob: bool = False


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
    """Reserve, start, renew, finish, release, retry, bury and reap for one lane."""

    def __init__(self, client: Redis, lane: str, worker: str, settings: Settings) -> None:
        self._scripts = Scripts(client)
        self._lane = lane
        self._worker = worker
        self._settings = settings
        self._keys = LaneKeys.of(lane).as_list()
        self._nonce = secrets.token_hex(6)
        self._calls = count(1)
        self._unanswered: tuple[str, int] | None = None

    def reserve(self, wanted: int, result_ttl: int) -> Reservation:
        """Lease up to `wanted` jobs.

        Where the answer got lost on the way, the next call first hands back
        what was leased then.
        """
        if self._unanswered is not None:
            self._reclaim(*self._unanswered)
        call = next(self._calls)
        prefix = f"{self._nonce}.{call:08x}."
        self._unanswered = (prefix, wanted)
        share = call * wanted // 16 - (call - 1) * wanted // 16
        settings = self._settings
        reply = self._scripts.run(
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
            ),
        )
        self._unanswered = None
        leases = [Lease(reply[i], reply[i + 1], reply[i + 2]) for i in range(2, len(reply), 3)]
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

    def finish(
        self, outcomes: Sequence[Outcome], result_ttl: int, batch_size: int, infer_ms: float
    ) -> list[int]:
        """Publish and ack; returns the positions of those that were fenced."""
        args: list[str | bytes | int | float] = [result_ttl, batch_size, f"{infer_ms:.3f}"]
        for out in outcomes:
            args += (
                out.tag,
                out.job_id,
                out.state,
                out.meta,
                out.reason,
                out.error,
                "1" if out.has_blob else "",
            )
        return list(self._scripts.run("finish", self._keys, args))

    def release(self, jobs: Iterable[tuple[bytes, str, bool]]) -> int:
        """Hand (tag, id, take the attempt back) to the lane's front; how many were ours."""
        args: list[str | bytes | int | float] = [self._lane]
        for tag, job_id, uncount in jobs:
            args += (tag, job_id, "1" if uncount else "")
        return int(self._scripts.run("release", self._keys, args)) if len(args) > 1 else 0

    def retry(self, jobs: Iterable[tuple[bytes, str, str, str, bool]]) -> int:
        """Park (tag, id, due, error, take the attempt back); due is Unix ms or `+ms`."""
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

    def reap(self, limit: int = 200) -> tuple[int, int, int]:
        """Return lapsed leases and due delayed jobs to the lane.

        Returns (reaped, promoted, ms until the next delayed job is due or -1).
        """
        reaped, promoted, next_due = self._scripts.run("reap", self._keys, (self._lane, limit))
        return int(reaped), int(promoted), int(next_due)

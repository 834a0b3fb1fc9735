"""Settles jobs whose message somebody took away: `celery purge`, a client's DEL, an eviction.

Their records would say `queued` for ever. One worker of the fleet looks through the records,
a few at a time, and a job must be missed twice, some time apart, before it is settled: another
Celery worker that took its message may just be running it.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import structlog
from redis import Redis

from common.redis.keys import JOB_PREFIX, LANES, RECONCILER, LaneKeys
from common.redis.scripts import Scripts
from worker.maintenance.caretaker import Caretaker

log = structlog.get_logger(__name__)

_ID = re.compile(rb'"id": ?"([^"\\]+)"')
"""Of a message; its headers come first in ours, and in Kombu's after a body in base64."""
_STEP_SECONDS = 1.0
_STEP_KEYS = 1_000
_FAST_STEP_KEYS = 20_000
"""In a round that has reason to believe that something is missing."""
_MISSED_SECONDS = 20.0
_MAX_MISSED = 100_000
_HOLD_SECONDS = 10
_NOTE_SECONDS = 60.0


class ReconcileCall(NamedTuple):
    """The first words of the reconcile script; ids follow."""

    lane: str
    result_ttl: int
    settle: str
    """`1`, or empty to only look."""


class Reconciler(Caretaker):
    """Looks through the records, round after round, while it holds the fleet's turn."""

    def __init__(
        self, client: Redis, lanes: Sequence[str], worker: str, result_ttl_seconds: int
    ) -> None:
        """lanes are those whose newest message is kept an eye on."""
        super().__init__("reconciler")
        self._client = client
        self._scripts = Scripts(client)
        self._lanes = {lane: LaneKeys.of(lane) for lane in lanes}
        self._worker = worker
        self._result_ttl = result_ttl_seconds
        self._note_at = 0.0
        self._cursor = 0
        self._has_turn = False
        self._fast = True
        """Whether this round is to end soon; the first is, as nobody may have looked before."""
        self._missed: dict[str, float] = {}
        """Since when a job is known to be missing, by the steady clock."""
        self._watched: dict[str, str] = {}
        """Per lane, a job that waited when it was last looked at."""

    def interval(self) -> float:
        """A second; longer where another does it. Jittered, so that not all ask at once."""
        pause = _STEP_SECONDS if self._has_turn else _HOLD_SECONDS / 2
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load

    def run_once(self) -> None:
        """One step, unless another worker does it; may raise RedisError."""
        self._note_lanes()
        self._has_turn = self._holds_turn()
        if not self._has_turn:
            self._missed.clear()
            return
        if self._lost_a_watched_one():
            self._fast = True
        self._step(time.monotonic())

    def _note_lanes(self) -> None:
        """So that they are known once nobody serves them."""
        if self._lanes and time.monotonic() >= self._note_at:
            self._client.sadd(LANES, *self._lanes)
            self._note_at = time.monotonic() + _NOTE_SECONDS

    def _holds_turn(self) -> bool:
        client, name = self._client, self._worker
        if client.set(RECONCILER, name, nx=True, ex=_HOLD_SECONDS):
            return True
        if client.get(RECONCILER) != name.encode():
            return False
        client.expire(RECONCILER, _HOLD_SECONDS)
        return True

    def _lost_a_watched_one(self) -> bool:
        """Whether a message that was seen waiting is gone with its whole list, and its job has
        not moved: a lane that is merely drained leaves no record that waits.
        """
        pipe = self._client.pipeline(transaction=False)
        for lane, keys in self._lanes.items():
            pipe.exists(keys.bands[0])
            pipe.getrange(JOB_PREFIX + self._watched.get(lane, ""), 0, 0)
        seen = pipe.execute()
        lost, moved = False, []
        for lane, exists, state in zip(self._lanes, seen[::2], seen[1::2], strict=True):
            if not exists:
                lost |= self._watched.pop(lane, None) is not None and state == b"q"
            elif state != b"q":
                moved.append(lane)
        self._watch_newest(moved)
        return lost

    def _watch_newest(self, lanes: Sequence[str]) -> None:
        """Read a message of each: of any size, so only where the one before is no longer good."""
        pipe = self._client.pipeline(transaction=False)
        for lane in lanes:
            pipe.lindex(self._lanes[lane].bands[0], 0)
        newest = cast("list[bytes | None]", pipe.execute()) if lanes else []
        for lane, message in zip(lanes, newest, strict=True):
            found = _ID.search(message) if message else None
            self._watched.pop(lane, None)
            if found:
                self._watched[lane] = found[1].decode(errors="replace")

    def _step(self, now: float) -> None:
        budget = _FAST_STEP_KEYS if self._fast else _STEP_KEYS
        while budget > 0 and not self._stopping.is_set():
            self._cursor, keys = self._scan()
            budget -= _STEP_KEYS
            for lane, ids in self._waiting(keys).items():
                self._look_at(lane, ids, now)
            if self._cursor == 0:
                self._fast = bool(self._missed)
                return

    def _scan(self) -> tuple[int, list[bytes]]:
        found = self._client.scan(self._cursor, match=JOB_PREFIX + "*", count=_STEP_KEYS)
        return cast("tuple[int, list[bytes]]", found)

    def _waiting(self, keys: list[bytes]) -> Mapping[str, list[str]]:
        """Of these records, whose say that the job waits or has ended in its list, by lane."""
        lanes: dict[str, list[str]] = {}
        records = cast("list[bytes | None]", self._client.mget(keys)) if keys else []
        for key, record in zip(keys, records, strict=True):
            if record and record[:1] in b"qx":
                lane = record.split(b" ", 2)[1].decode()
                lanes.setdefault(lane, []).append(key.decode()[len(JOB_PREFIX) :])
        return lanes

    def _look_at(self, lane: str, ids: list[str], now: float) -> None:
        missing = self._reconcile(lane, ids, settle=False)
        for job_id in missing:
            if len(self._missed) < _MAX_MISSED:
                self._missed.setdefault(job_id, now)
        due = [one for one in missing if now - self._missed.get(one, now) >= _MISSED_SECONDS]
        if due:
            settled = self._reconcile(lane, due, settle=True)
            log.warning("messages_lost", lane=lane, jobs=len(settled))
        for job_id in {*ids} - {*missing} | {*due}:
            self._missed.pop(job_id, None)

    def _reconcile(self, lane: str, ids: Sequence[str], *, settle: bool) -> list[str]:
        call = ReconcileCall(lane, self._result_ttl, "1" if settle else "")
        found = self._scripts.run("reconcile", LaneKeys.of(lane).as_list(), (*call, *ids))
        return [one.decode() for one in found]

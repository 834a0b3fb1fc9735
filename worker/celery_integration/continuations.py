"""Sends what settled jobs lead to: reads the outbox, has the successors made, pushes them.

The outbox is a Redis stream with one group of readers, so an entry is leased to one worker
by being read, and to another when that one has not finished it in time. The script that
pushes the successors removes the entry: whoever comes second pushes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import structlog
from redis import Redis
from redis.exceptions import ResponseError

from common.redis.keys import OUTBOX, OUTBOX_FAILED
from common.redis.scripts import Scripts
from worker.celery_integration.canvas import ChordClaimedError, Successors
from worker.jobs.next_steps import NextSteps
from worker.maintenance.caretaker import Caretaker

log = structlog.get_logger(__name__)

GROUP = "workers"
_READ_COUNT = 32
_BLOCK_MS = 1_000
_REDIS_PAUSE_SECONDS = 0.5
_MAX_DELIVERIES = 8
_FAILED_MAX_COUNT = 10_000

MakeSuccessors = Callable[[str, dict[str, Any], NextSteps], Successors]
Entry = tuple[bytes, Mapping[bytes, bytes]]


class Continuations(Caretaker):
    """Continues what the entries of the outbox lead to, one after the other."""

    def __init__(
        self, client: Redis, worker: str, make: MakeSuccessors, lease_seconds: float
    ) -> None:
        """lease_seconds is how long another worker leaves an entry to the one that read it."""
        super().__init__("continuations")
        self._client = client
        self._scripts = Scripts(client)
        self._worker = worker
        self._make = make
        self._lease_seconds = lease_seconds
        self._claim_at = 0.0
        self._waiting = False

    def stop(self) -> None:
        """End the thread after the entry it continues; one that waits ends with the process."""
        self._stopping.set()
        if not self._waiting:
            super().stop()

    def interval(self) -> float:
        """None: reading waits for entries."""
        return 0.0

    def on_trouble(self) -> None:
        """Wait, as the next read would fail at once."""
        self._stopping.wait(_REDIS_PAUSE_SECONDS)

    def run_once(self) -> None:
        """Continue what has lapsed, then what is new, waiting a second for it."""
        try:
            entries = self._lapsed() or self._new()
        except ResponseError as exc:
            if not str(exc).startswith("NOGROUP"):
                raise
            self._make_group()
            return
        for entry in entries:
            if self._stopping.is_set():
                return  # the others lapse
            self._continue(entry)

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(OUTBOX, GROUP, id="0", mkstream=True)
        except ResponseError as exc:
            if not str(exc).startswith("BUSYGROUP"):  # another worker made it
                raise

    def _new(self) -> list[Entry]:
        self._waiting = True
        try:
            reply: Any = self._client.xreadgroup(
                GROUP, self._worker, {OUTBOX: ">"}, count=_READ_COUNT, block=_BLOCK_MS
            )
        finally:
            self._waiting = False
        return list(reply[0][1]) if reply else []

    def _lapsed(self) -> list[Entry]:
        """Entries that a worker has read and not finished in time."""
        now = time.monotonic()
        if now < self._claim_at:
            return []
        reply: Any = self._client.xautoclaim(
            OUTBOX, GROUP, self._worker, int(self._lease_seconds * 1000), count=_READ_COUNT
        )
        entries = [entry for entry in reply[1] if entry[1]]
        if len(entries) < _READ_COUNT:
            self._claim_at = now + self._lease_seconds / 2
        return entries

    def _continue(self, entry: Entry) -> None:
        entry_id, fields = entry
        job_id = fields[b"id"].decode()
        try:
            made = self._make(job_id, orjson.loads(fields[b"meta"]), orjson.loads(fields[b"next"]))
            self._push(entry_id, made)
        except ChordClaimedError:
            log.info("chord_is_claimed", job_id=job_id)  # the entry lapses, and is read again
        except Exception as exc:
            log.exception("continuation_failed", job_id=job_id)
            self._set_aside(entry, str(exc))

    def _push(self, entry_id: bytes, made: Successors) -> None:
        words: list[str | bytes | int | float] = [
            entry_id,
            GROUP,
            made.claim,
            made.chord,
            made.done_seconds,
        ]
        for message in made.messages:
            words += message
        if self._scripts.run("continue", (), words) == 1 and made.spent:
            self._client.delete(*made.spent)

    def _set_aside(self, entry: Entry, error: str) -> None:
        """Keep an entry apart that has failed again and again."""
        entry_id, fields = entry
        pending: Any = self._client.xpending_range(OUTBOX, GROUP, entry_id, entry_id, 1)
        if not pending or pending[0]["times_delivered"] < _MAX_DELIVERIES:
            return
        log.error("continuation_given_up", job_id=fields[b"id"].decode(), error=error)
        with self._client.pipeline() as pipe:
            kept: Any = {**fields, b"error": error.encode()}
            pipe.xadd(OUTBOX_FAILED, kept, maxlen=_FAILED_MAX_COUNT)
            pipe.xack(OUTBOX, GROUP, entry_id)
            pipe.xdel(OUTBOX, entry_id)
            pipe.execute()

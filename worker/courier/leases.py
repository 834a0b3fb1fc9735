"""The leases of one system lane, from an event loop: the scripts are those of every lane."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import chain, count

import orjson
import redis.asyncio

from common.jobs.script_calls import ReapCall
from common.redis.keys import LaneKeys
from common.redis.scripts import AsyncScripts
from common.settings import Settings
from worker.jobs.lease_calls import (
    FinishCall,
    FinishedJob,
    ReclaimCall,
    ReleasedJob,
    ReserveCall,
    RetryJob,
)
from worker.jobs.leases import Lease

RESULT_SECONDS = 600
"""How long a settled job's id is known, so that whoever enqueues it again does nothing."""
_ANY_NUMBER = 1_000_000
_WORDS = len(FinishedJob._fields)


class CourierLeases:
    """Reserve, renew, finish, retry, release and reap."""

    def __init__(
        self, client: redis.asyncio.Redis, lane: str, courier: str, settings: Settings
    ) -> None:
        """courier is the name under which it holds leases."""
        self.lane = lane
        self._scripts = AsyncScripts(client)
        self._courier = courier
        self._settings = settings
        self._keys = LaneKeys.of(lane).as_list()
        self._nonce = secrets.token_hex(6)
        self._calls = count(1)
        self._unanswered: tuple[str, int] | None = None

    async def reserve(self, wanted: int) -> list[Lease]:
        """Lease up to this many jobs; raises what redis-py raises."""
        if self._unanswered is not None:  # the reply was lost: give back what it leased
            await self._scripts.run(
                "reclaim", self._keys, ReclaimCall(self.lane, *self._unanswered)
            )
            self._unanswered = None
        number, settings = next(self._calls), self._settings
        prefix = f"{self._nonce}.{number:08x}."
        self._unanswered = (prefix, wanted)
        reply = await self._scripts.run(
            "reserve",
            self._keys,
            ReserveCall(
                self.lane,
                wanted,
                settings.lease_ms,
                prefix,
                self._courier,
                RESULT_SECONDS,
                settings.dead_max_count,
                _ANY_NUMBER,
                number * wanted // 16 - (number - 1) * wanted // 16,
                number % 3,
                settings.tenant_window_jobs,
                settings.reservation_bytes,
                settings.max_message_bytes,
            ),
        )
        self._unanswered = None
        words = iter(reply[2:])
        return list(map(Lease, words, words, words, words))

    async def renew(self, tags: Sequence[bytes]) -> list[bytes]:
        """Extend these leases; returns the tags that are no longer held."""
        return list(await self._scripts.run("renew", self._keys, (self._settings.lease_ms, *tags)))

    async def finish(self, jobs: Sequence[FinishedJob]) -> list[int]:
        """Settle these; returns the positions of those whose lease was lost."""
        args = [*FinishCall(RESULT_SECONDS, _WORDS), *chain.from_iterable(jobs)]
        return list(await self._scripts.run("finish", self._keys, args))

    async def retry(self, jobs: Sequence[RetryJob]) -> None:
        """Delay these."""
        await self._scripts.run("retry", self._keys, [self.lane, *chain.from_iterable(jobs)])

    async def release(self, jobs: Sequence[ReleasedJob]) -> None:
        """Return these to the front of the lane."""
        args: list[str | bytes | int | float] = [self.lane]
        for tag, job_id, uncount in jobs:
            args += (tag, job_id, "1" if uncount else "")
        while int(await self._scripts.run("release", self._keys, args)) < 0:
            pass

    async def reap(self) -> None:
        """Return lapsed leases and due jobs to the lane."""
        settings = self._settings
        call = ReapCall(
            self.lane,
            200,
            RESULT_SECONDS,
            settings.tenant_window_jobs,
            settings.grace_ms,
            settings.patience_ms,
        )
        await self._scripts.run("reap", self._keys, call)


def result_of(value: object) -> bytes:
    """A settled job's result as Celery stores it."""
    return b'{"status":"SUCCESS","result":%b,"traceback":null,"children":[]}' % orjson.dumps(value)

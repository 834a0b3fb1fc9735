"""Reads job records and results; cancels jobs, and changes the dead lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import orjson
import redis.asyncio

from api.background.coalescer import Coalescer
from api.http.turns import Turns
from api.overload.lane_state import LaneState
from common.catalog import Target
from common.jobs.enqueue import EnqueueTenant, refusal_by
from common.jobs.quota import Limits
from common.jobs.record import JobRecord
from common.jobs.script_calls import CancelCall, DropCall
from common.redis.connect import database_of
from common.redis.keys import (
    ALIASES,
    CONTROL_CHANNEL,
    OVER_TOTALS,
    WORKERS,
    LaneKeys,
    job_key,
    meta_key,
    scoped_channel,
    worker_key,
)
from common.redis.scripts import Args, AsyncScripts
from common.settings import DEFAULT_WINDOW
from common.worker_report import WorkerReport

_IDS_PER_CALL = 500
_BATCHES = 4
"""Most concurrent reads of many records: redis-py's pool raises when all of its 100 connections
are in use, and after a lost connection all requests read at once."""
_RECORDS_PER_CALL = 64
"""Few enough that a round trip stays small where results are large."""
_MAX_IN_PROGRESS = 4


class JobStore:
    """Reads records and results; cancels jobs."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        result_ttl_seconds: int,
        tenant_window: int = DEFAULT_WINDOW,
    ) -> None:
        self._client = client
        self._scripts = AsyncScripts(client)
        self._reads: Coalescer[str, JobRecord | None] = Coalescer(
            self._read, max_items=_RECORDS_PER_CALL, max_in_progress=_MAX_IN_PROGRESS
        )
        self._batches = asyncio.Semaphore(_BATCHES)
        self._turns = Turns()
        self._result_ttl = result_ttl_seconds
        self._window = tenant_window

    async def get(self, job_id: str) -> JobRecord | None:
        """The current record of the job, or None when it is unknown or expired."""
        return await self._reads.share(job_id)

    async def _read(self, ids: Sequence[str]) -> Sequence[JobRecord | Exception | None]:
        keys = [key(job_id) for job_id in ids for key in (job_key, meta_key)]
        found = cast("list[bytes | None]", await self._client.mget(keys))
        pairs = zip(ids, found[::2], found[1::2], strict=True)
        return [_record_or_error(job_id, record, meta) for job_id, record, meta in pairs]

    async def live_records(self, ids: Sequence[str]) -> list[bytes | None]:
        """The stored records of jobs that are not settled; None for others."""
        found: list[bytes | None] = []
        for first in range(0, len(ids), _IDS_PER_CALL):
            keys = [job_key(job_id) for job_id in ids[first : first + _IDS_PER_CALL]]
            async with self._batches:
                found += cast("list[bytes | None]", await self._client.mget(keys))
        return found

    async def stored_results(self, ids: Sequence[str]) -> list[bytes | None]:
        """The results of settled jobs as they are stored, in one round trip; None for others."""
        async with self._batches:
            found = await self._client.mget([meta_key(job_id) for job_id in ids])
        return cast("list[bytes | None]", found)

    async def get_many(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """As `get` for each, in one round trip; None also for records that cannot be read."""
        if not ids:
            return []
        async with self._batches:
            found = await self._read(ids)
        return [one if isinstance(one, JobRecord) else None for one in found]

    async def cancel(self, job_id: str) -> str | None:
        """Cancel; returns the state afterwards, None when the job is unknown."""
        reply = await self._scripts.run(
            "cancel", (), CancelCall(job_id, self._result_ttl, "canceled")
        )
        return reply.decode() or None

    async def lanes(self, names: list[str]) -> dict[str, LaneState]:
        """What lanes hold and have counted; nothing of workers, ages and breakers."""
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            keys = LaneKeys.of(name)
            for band in keys.bands:
                pipe.llen(band)
            pipe.hmget(keys.over, OVER_TOTALS)
            pipe.hlen(keys.unacked)
            pipe.zcard(keys.delayed)
            pipe.zcard(keys.dead)
            pipe.hgetall(keys.stats)
        replies = await pipe.execute()
        return {name: _lane_state(*replies[at * 9 : at * 9 + 9]) for at, name in enumerate(names)}

    async def drop_lane(self, lane: str) -> int:
        """Cancel every job of a lane that nobody serves; returns how many there were."""
        keys, dropped = LaneKeys.of(lane).as_list(), 0
        while True:
            call = DropCall(lane, _IDS_PER_CALL, self._result_ttl)
            taken, settled = await self._scripts.run("drop_lane", keys, call)
            dropped += int(settled)
            if not taken:
                return dropped

    async def dead_letters(
        self, lane: str, *, offset: int = 0, limit: int = 100, owned: str | None = None
    ) -> list[dict[str, Any]]:
        """The lane's dead letters, newest first, without their messages; all, or one tenant's."""
        keys = LaneKeys.of(lane)
        if owned is not None:
            async with self._turns.of(owned):
                mine = [about async for about in self._letters_of(keys, owned)]
            return mine[offset : offset + limit]
        last = offset + limit - 1
        ids = cast("list[bytes]", await self._client.zrange(keys.dead, offset, last, desc=True))
        return await self._abouts(keys, ids)

    async def dead_ids(
        self, lane: str, ids: Sequence[str] | None, owned: str | None
    ) -> Sequence[str] | None:
        """The ids among these dead letters (None is all) that are of this tenant (None is any)."""
        if owned is None:
            return ids
        keys = LaneKeys.of(lane)
        if ids is None:
            async with self._turns.of(owned):
                return [about["id"] async for about in self._letters_of(keys, owned)]
        mine = []
        ids = list(dict.fromkeys(ids))
        for first in range(0, len(ids), _IDS_PER_CALL):
            abouts = await self._abouts(keys, ids[first : first + _IDS_PER_CALL])
            mine += [about["id"] for about in abouts if about.get("tenant", "") == owned]
        return mine

    async def _letters_of(self, keys: LaneKeys, tenant: str) -> AsyncIterator[dict[str, Any]]:
        """Dead letters, newest first; at most dead_max_count are read."""
        ids = cast("list[bytes]", await self._client.zrange(keys.dead, 0, -1, desc=True))
        for first in range(0, len(ids), _IDS_PER_CALL):
            for about in await self._abouts(keys, ids[first : first + _IDS_PER_CALL]):
                if about.get("tenant", "") == tenant:
                    yield about

    async def _abouts(
        self, keys: LaneKeys, ids: Sequence[str] | Sequence[bytes]
    ) -> list[dict[str, Any]]:
        if not ids:
            return []
        abouts: list[dict[str, Any]] = []
        while ids:  # a call ends before all of them where their messages are large
            found = await self._scripts.run("dead_letters", keys.as_list(), ids)
            abouts += [orjson.loads(about) for about in found if about]
            ids = ids[len(found) :]
        return abouts

    async def dead_letter(self, lane: str, job_id: str) -> dict[str, Any] | None:
        """One dead letter with its message as text, or None."""
        letter = cast("bytes | None", await self._client.hget(LaneKeys.of(lane).letters, job_id))
        if letter is None:
            return None
        about, _, message = letter.partition(b"\n")
        return {**orjson.loads(about), "message": message.decode("utf-8", "backslashreplace")}

    async def retry_dead(
        self, lane: str, ids: Sequence[str] | None, limited: EnqueueTenant | None = None
    ) -> int:
        """Return dead jobs to their lane; None is all of them. Returns how many, fewer where this
        tenant may have no more; raises RateLimited or QuotaExceeded where it may have none.
        """
        keys = LaneKeys.of(lane)
        revived = 0
        limits = limited or EnqueueTenant("", 0, 1, 0)
        chosen = list(dict.fromkeys(ids)) if ids is not None else await self._dead_ids(keys)
        while chosen:
            args: Args = (self._window, *limits, *chosen[:_IDS_PER_CALL])
            looked, more, refused = await self._scripts.run("dead_retry", keys.as_list(), args)
            revived += more
            chosen = chosen[looked:]
            if refused and not revived:
                raise refusal_by(refused, Limits(*limits[1:]))
            if refused:
                break
        return revived

    async def purge_dead(self, lane: str, ids: Sequence[str] | None) -> int:
        """Delete dead letters; None is all of them. Returns how many."""
        if ids is not None and not ids:
            return 0
        keys = LaneKeys.of(lane)
        chosen = list(dict.fromkeys(ids)) if ids is not None else await self._dead_ids(keys)
        dropped = 0
        for first in range(0, len(chosen), _IDS_PER_CALL):
            part = chosen[first : first + _IDS_PER_CALL]
            dropped += int(await self._scripts.run("dead_purge", keys.as_list(), part))
        return dropped

    async def _dead_ids(self, keys: LaneKeys) -> list[str]:
        ids = cast("list[bytes]", await self._client.zrange(keys.dead, 0, -1))
        return [one.decode() for one in ids]

    async def workers(self) -> list[WorkerReport]:
        """The last report of each live worker."""
        return [WorkerReport.load(report) for report in await self.worker_documents()]

    async def worker_documents(self) -> list[bytes]:
        """The reports as JSON; those of a newer worker may have fields unknown here."""
        names = cast("list[bytes]", await self._client.zrange(WORKERS, 0, -1))
        if not names:
            return []
        found = await self._client.mget([worker_key(name.decode()) for name in names])
        reports = cast("list[bytes | None]", found)
        return [report for report in reports if report]

    async def tell_workers(self, command: str) -> int:
        """Ask something of the workers' models; returns how many of them heard it."""
        channel = scoped_channel(CONTROL_CHANNEL, database_of(self._client))
        return int(await self._client.publish(channel, command))

    async def aliases(self) -> dict[str, Target]:
        """The aliases that operators have moved, with their targets."""
        moved = cast("dict[bytes, bytes]", await self._client.hgetall(ALIASES))
        return {
            alias.decode(): target
            for alias, text in moved.items()
            if (target := Target.load(text.decode())) is not None
        }

    async def move_alias(self, alias: str, target: Target) -> int:
        """Point an alias at this; returns how many workers were notified at once."""
        await self._client.hset(ALIASES, alias, target.dump())
        return await self.tell_workers("aliases")


def _lane_state(*reply: Any) -> LaneState:
    *listed, over, leased, delayed, dead, stats = reply
    beside = [int(count or 0) for count in over]
    return LaneState(
        waiting=tuple(n + more for n, more in zip(listed, beside, strict=True)),
        beside=sum(beside),
        leased=leased,
        delayed=delayed,
        dead=dead,
        counters={key.decode(): int(value) for key, value in stats.items()},
    )


def _record_or_error(
    job_id: str, record: bytes | None, meta: bytes | None
) -> JobRecord | Exception | None:
    """The record, or the error of one that cannot be read, so that other jobs are unaffected."""
    try:
        return JobRecord.read(job_id, record, meta)
    except Exception as exc:  # noqa: BLE001 - raised to whoever asked for this one
        return exc

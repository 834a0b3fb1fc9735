"""Job records and results, and waiting for them without polling.

All waiters of a process share one subscription connection. A waiter first
has its channel subscribed, then looks at the record, then sleeps: in that
order nothing can finish unseen. The notification carries the whole result.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Collection, Sequence
from typing import Any, cast

import orjson
import redis.asyncio
import structlog
from redis.asyncio.connection import Connection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from common.job import JobRecord, JobState
from common.keys import (
    ALIASES,
    CONTROL_CHANNEL,
    META_PREFIX,
    OVER_TOTALS,
    WORKERS,
    LaneKeys,
    job_key,
    meta_key,
    worker_key,
)
from common.reads import SharedTrips
from common.scripts import AsyncScripts
from common.settings import DEFAULT_WINDOW

log = structlog.get_logger(__name__)

_RECONNECT_SECONDS = 0.5
_PING_SECONDS = 10.0
_IDS_PER_CALL = 500
_RECORDS_PER_TRIP = 64
"""Few enough that a trip stays small where results are large."""
_LOOK_AFTER_SECONDS = 0.02
"""After this long a waiter looks at the record too, in case it was deaf for a moment."""


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
        self._reads = SharedTrips(self._read, _RECORDS_PER_TRIP)
        self._result_ttl = result_ttl_seconds
        self._window = tenant_window

    async def get(self, job_id: str) -> JobRecord | None:
        """The job as it stands, or None when nobody knows it (any more)."""
        return await self._reads.get(job_id)

    async def _read(self, ids: Sequence[str]) -> Sequence[JobRecord | Exception | None]:
        keys = [key(job_id) for job_id in ids for key in (job_key, meta_key)]
        found = cast("list[bytes | None]", await self._client.mget(keys))
        pairs = zip(ids, found[::2], found[1::2], strict=True)
        return [_record_or_error(job_id, record, meta) for job_id, record, meta in pairs]

    async def live_records(self, ids: Sequence[str]) -> list[bytes | None]:
        """The records of jobs that are not settled, as they are stored; None for others."""
        found: list[bytes | None] = []
        for first in range(0, len(ids), _IDS_PER_CALL):
            keys = [job_key(job_id) for job_id in ids[first : first + _IDS_PER_CALL]]
            found += cast("list[bytes | None]", await self._client.mget(keys))
        return found

    async def get_many(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """As `get` for each, in one round trip; None also for what cannot be read."""
        found = await self._read(ids) if ids else ()
        return [one if isinstance(one, JobRecord) else None for one in found]

    async def cancel(self, job_id: str) -> str | None:
        """Cancel; returns the state afterwards, None when nobody knows the job."""
        reply = await self._scripts.run("cancel", (), (job_id, self._result_ttl, "canceled"))
        return reply.decode() or None

    async def lanes(self, names: list[str]) -> dict[str, dict[str, int]]:
        """Per lane: waiting by band, leased, delayed, dead and the counters since it began."""
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
        out = {}
        for index, name in enumerate(names):
            *counts, stats = replies[index * 9 : index * 9 + 9]
            waiting, beside, (leased, delayed, dead) = counts[:4], counts[4], counts[5:]
            out[name] = {
                "waiting": sum(waiting) + sum(int(count or 0) for count in beside),
                "leased": leased,
                "delayed": delayed,
                "dead": dead,
                **{key.decode(): int(value) for key, value in stats.items()},
            }
        return out

    async def dead_letters(
        self, lane: str, *, offset: int = 0, limit: int = 100, owned: str | None = None
    ) -> list[dict[str, Any]]:
        """The lane's dead letters, newest first, without their messages; all, or one tenant's."""
        keys = LaneKeys.of(lane)
        if owned is not None:
            mine = [about async for about in self._letters_of(keys, owned)]
            return mine[offset : offset + limit]
        last = offset + limit - 1
        ids = cast("list[bytes]", await self._client.zrange(keys.dead, offset, last, desc=True))
        return await self._abouts(keys, ids)

    async def dead_ids(
        self, lane: str, ids: Sequence[str] | None, owned: str | None
    ) -> Sequence[str] | None:
        """Which of these dead letters (None is all) are this tenant's (None is anybody's)."""
        if owned is None:
            return ids
        keys = LaneKeys.of(lane)
        if ids is None:
            return [about["id"] async for about in self._letters_of(keys, owned)]
        mine = []
        for first in range(0, len(ids), _IDS_PER_CALL):
            abouts = await self._abouts(keys, ids[first : first + _IDS_PER_CALL])
            mine += [about["id"] for about in abouts if about.get("tenant", "") == owned]
        return mine

    async def _letters_of(self, keys: LaneKeys, tenant: str) -> AsyncIterator[dict[str, Any]]:
        """Newest first; there are at most dead_max_count to look through."""
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
        letters = cast("list[bytes | None]", await self._client.hmget(keys.letters, list(ids)))
        return [orjson.loads(letter.partition(b"\n")[0]) for letter in letters if letter]

    async def dead_letter(self, lane: str, job_id: str) -> dict[str, Any] | None:
        """One dead letter with its message as text, or None."""
        letter = cast("bytes | None", await self._client.hget(LaneKeys.of(lane).letters, job_id))
        if letter is None:
            return None
        about, _, message = letter.partition(b"\n")
        return {**orjson.loads(about), "message": message.decode("utf-8", "backslashreplace")}

    async def retry_dead(self, lane: str, ids: Sequence[str] | None) -> int:
        """Put dead jobs back into their lane; None is all of them. Returns how many."""
        keys = LaneKeys.of(lane)
        revived = 0
        chosen = ids if ids is not None else await self._dead_ids(keys)
        for first in range(0, len(chosen), _IDS_PER_CALL):
            part = chosen[first : first + _IDS_PER_CALL]
            revived += await self._scripts.run("dead_retry", keys.as_list(), (self._window, *part))
        return revived

    async def purge_dead(self, lane: str, ids: Sequence[str] | None) -> int:
        """Drop dead letters for good; None is all of them. Returns how many."""
        if ids is not None and not ids:
            return 0
        dropped = await self._scripts.run("dead_purge", LaneKeys.of(lane).as_list(), ids or ())
        return int(dropped)

    async def _dead_ids(self, keys: LaneKeys) -> list[str]:
        ids = cast("list[bytes]", await self._client.zrange(keys.dead, 0, -1))
        return [one.decode() for one in ids]

    async def workers(self) -> list[dict[str, Any]]:
        """What each live worker last said of itself."""
        names = cast("list[bytes]", await self._client.zrange(WORKERS, 0, -1))
        if not names:
            return []
        reports = await self._client.mget([worker_key(name.decode()) for name in names])
        return [orjson.loads(report) for report in reports if report]

    async def tell_workers(self, command: str) -> int:
        """Ask something of the workers' models; returns how many of them heard it."""
        return int(await self._client.publish(CONTROL_CHANNEL, command))

    async def aliases(self) -> dict[str, str]:
        """Where operators moved aliases to."""
        moved = cast("dict[bytes, bytes]", await self._client.hgetall(ALIASES))
        return {alias.decode(): model.decode() for alias, model in moved.items()}

    async def move_alias(self, alias: str, model: str) -> int:
        """Point an alias at a model; returns how many workers heard it at once."""
        await self._client.hset(ALIASES, alias, model)
        return await self.tell_workers("aliases")


def _record_or_error(
    job_id: str, record: bytes | None, meta: bytes | None
) -> JobRecord | Exception | None:
    """What one key holds that cannot be read is no other job's concern."""
    try:
        return JobRecord.read(job_id, record, meta)
    except Exception as exc:  # noqa: BLE001 - raised to whoever asked for this one
        return exc


class _Arrivals:
    """Collects what many futures bring, so that a wake-up costs what came and not who waits."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._came: list[tuple[str, JobRecord | None]] = []

    def expect(self, job_id: str, future: asyncio.Future[JobRecord | None]) -> None:
        """Collect this one too."""

        def arrive(done: asyncio.Future[JobRecord | None]) -> None:
            if not done.cancelled():
                self._came.append((job_id, done.result()))
                self._event.set()

        future.add_done_callback(arrive)

    async def wait(self, seconds: float) -> None:
        """Until something came, at most this long."""
        if seconds > 0 and not self._came:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), seconds)

    def take(self) -> tuple[list[JobRecord], set[str]]:
        """What came: records, and the ids of those woken without news."""
        self._event.clear()
        came, self._came = self._came, []
        records = [record for _, record in came if record is not None]
        return records, {job_id for job_id, record in came if record is None}


class ResultWaiter:
    """Wakes waiters when their job is settled; one connection for all of them."""

    def __init__(self, client: redis.asyncio.Redis, store: JobStore) -> None:
        self._pool = client.connection_pool
        self._store = store
        self._waiters: dict[str, set[asyncio.Future[JobRecord | None]]] = defaultdict(set)
        self._confirmed: dict[str, asyncio.Event] = {}
        self._leaving: set[str] = set()
        self._departure: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._listener: asyncio.Task[None] | None = None
        self._draining = False

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return sum(map(len, self._waiters.values()))

    def start(self) -> None:
        """Begin to listen, in the running event loop."""
        self._listener = asyncio.create_task(self._listen(), name="result-waiter")

    async def stop(self) -> None:
        """End listening; whoever still waits sees the record as it stands."""
        if self._listener:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        self._wake_all()

    def drain(self) -> None:
        """Let everybody go who waits, now and from now on, with the record as it stands."""
        self._draining = True
        self._wake_all()

    async def wait(
        self, job_id: str, seconds: float, begin: Awaitable[object] | None = None
    ) -> JobRecord | None:
        """The record once it is terminal, or as it stands after `seconds`.

        begin, when given, publishes the job; it is awaited with the ears open, so that the
        result of a quick job arrives by itself and the record need not be looked at.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        future = self._listen_for(job_id)
        try:
            await self._subscribe(job_id)
            if begin is not None:
                begun = await begin
                if isinstance(begun, JobRecord) and begun.state.terminal:
                    return begun
                await asyncio.wait({future}, timeout=min(seconds, _LOOK_AFTER_SECONDS))
            if not future.done():
                await self._confirm(job_id, seconds)
            while True:
                record = future.result() if future.done() else None
                if record is not None:
                    return record
                if future.done():  # woken without news: the connection was lost
                    self._waiters[job_id].discard(future)
                    future = self._listen_for(job_id)
                record = await self._store.get(job_id)
                left = deadline - loop.time()
                if record is None or record.state.terminal or left <= 0 or self._draining:
                    return record
                await asyncio.wait({future}, timeout=left)
        finally:
            self._dismiss(job_id, future)

    async def watch(
        self,
        ids: Sequence[str],
        seconds: float,
        begin: Awaitable[Collection[str]] | None = None,
    ) -> AsyncGenerator[list[JobRecord], None]:
        """Yield the records of these jobs as they are settled, those that come together as one.

        Ends when all are settled, or after `seconds`; a job that nobody knows is left out.
        begin is as for `wait`, and returns the ids for which there is nothing to wait. One
        subscription and one look serve all of them.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        arrivals = _Arrivals()
        waiting = {job_id: self._listen_for(job_id, arrivals) for job_id in ids}
        try:
            await self._subscribe(*waiting)
            look_at = loop.time()
            if begin is not None:
                for job_id in await begin:
                    self._dismiss(job_id, waiting.pop(job_id))
                look_at = loop.time() + _LOOK_AFTER_SECONDS
            while waiting:
                await arrivals.wait(min(look_at, deadline) - loop.time())
                settled, deaf = arrivals.take()
                for job_id in deaf & waiting.keys():
                    self._waiters[job_id].discard(waiting[job_id])
                    waiting[job_id] = self._listen_for(job_id, arrivals)
                over = loop.time() >= deadline or self._draining
                if deaf or over or loop.time() >= look_at:
                    look_at = math.inf
                    settled += await self._look(list(waiting), seconds, settled)
                news = [record for record in settled if record.id in waiting]
                for record in news:
                    self._dismiss(record.id, waiting.pop(record.id))
                if news:
                    yield [record for record in news if record.state.terminal]
                if over:
                    return
        finally:
            for job_id, future in waiting.items():
                self._dismiss(job_id, future)

    async def _look(
        self, ids: list[str], seconds: float, known: list[JobRecord]
    ) -> list[JobRecord]:
        """What is settled of these by the records, once the subscription is sure to stand.

        A job that nobody knows comes back as one that is queued nowhere, to be left out.
        """
        settled = {record.id for record in known}
        left = [job_id for job_id in ids if job_id not in settled]
        if left:
            await self._confirm(left[-1], seconds)
        records = zip(left, await self._store.get_many(left), strict=True)
        found = [record or JobRecord(job_id, JobState.QUEUED, "") for job_id, record in records]
        return [record for record in found if record.state.terminal or not record.lane]

    def _dismiss(self, job_id: str, future: asyncio.Future[JobRecord | None]) -> None:
        """End one waiter's wait; the last one's ends the subscription."""
        self._waiters[job_id].discard(future)
        if not self._waiters[job_id]:
            del self._waiters[job_id]
            self._leave(job_id)

    def _listen_for(
        self, job_id: str, arrivals: _Arrivals | None = None
    ) -> asyncio.Future[JobRecord | None]:
        future: asyncio.Future[JobRecord | None] = asyncio.get_running_loop().create_future()
        self._waiters[job_id].add(future)
        if arrivals is not None:
            arrivals.expect(job_id, future)
        return future

    async def _subscribe(self, *ids: str) -> None:
        new = [job_id for job_id in ids if job_id not in self._confirmed]
        for job_id in new:
            self._confirmed[job_id] = asyncio.Event()
        if new:
            await self._send("SUBSCRIBE", *map(meta_key, new))

    def _leave(self, job_id: str) -> None:
        """Unsubscribe in the next turn: nobody's answer waits for it, and many leave together."""
        self._leaving.add(job_id)
        if self._departure is None:
            self._departure = asyncio.create_task(self._unsubscribe())

    async def _unsubscribe(self) -> None:
        await asyncio.sleep(0)
        while self._leaving:
            leaving, self._leaving = self._leaving, set()
            gone = [job_id for job_id in leaving if job_id not in self._waiters]
            for job_id in gone:
                self._confirmed.pop(job_id, None)
            if gone:
                await self._send("UNSUBSCRIBE", *map(meta_key, gone))
        self._departure = None

    async def _confirm(self, job_id: str, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._confirmed[job_id].wait(), min(seconds, 5.0))
        except TimeoutError:
            log.warning("subscription_unconfirmed")

    async def _send(self, *command: str) -> None:
        if self._connection is None or not self._connection.is_connected:
            return  # the listener subscribes to everything when it is back
        try:
            await self._connection.send_command(*command)
        except (RedisError, OSError):
            await self._connection.disconnect()

    async def _listen(self) -> None:
        while True:
            connection: Connection = self._pool.make_connection()
            try:
                await connection.connect()
                self._connection = connection
                channels = [meta_key(job_id) for job_id in self._waiters]
                if channels:
                    await connection.send_command("SUBSCRIBE", *channels)
                await self._listen_on(connection)
            except (RedisError, OSError) as exc:
                log.warning("result_waiter_disconnected", error=str(exc))
            finally:
                self._connection = None
                await connection.disconnect()
            self._wake_all()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen_on(self, connection: Connection) -> None:
        """Until the connection is dead; a silent one is asked for a sign of life first."""
        pinged = False
        while True:
            try:
                self._hear(await connection.read_response(timeout=_PING_SECONDS))
                pinged = False
            except RedisTimeoutError:
                if pinged:
                    raise
                await connection.send_command("PING")
                pinged = True

    def _hear(self, message: Any) -> None:
        if not isinstance(message, list) or len(message) < 3:
            return
        kind, channel = message[0], bytes(message[1]).decode()
        job_id = channel.removeprefix(META_PREFIX)
        if kind == b"subscribe" and job_id in self._confirmed:
            self._confirmed[job_id].set()
        elif kind == b"message":
            self._on_result(job_id, bytes(message[2]))

    def _on_result(self, job_id: str, meta: bytes) -> None:
        """Anybody may publish here; what cannot be read only makes the waiters look."""
        try:
            record = JobRecord.read(job_id, None, meta)
        except (ValueError, KeyError, TypeError, AttributeError):
            record = None
        if record is None or record.state.terminal:
            self._wake(job_id, record)

    def _wake(self, job_id: str, record: JobRecord | None) -> None:
        for future in self._waiters.get(job_id, ()):
            if not future.done():
                future.set_result(record)

    def _wake_all(self) -> None:
        for job_id in list(self._waiters):
            self._wake(job_id, None)
